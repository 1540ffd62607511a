//! An answer, and how it looks on the wire.

use endcap_proto::pb;
use endcap_service::RequestId;
use endcap_types::{ItemId, Quality};

/// A ranked page and how good it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// Best first, distinct.
    pub(crate) items: Vec<Item>,
    pub(crate) quality: Quality,
    /// In the caller's order.
    pub(crate) unknown: Vec<ItemId>,
}

/// One item of a page.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    pub(crate) item_id: ItemId,
    pub(crate) score: f32,
    pub(crate) retrieval_score: f32,
    /// By column; absent where the item has no value.
    pub(crate) fields: Vec<(String, String)>,
}

impl Item {
    /// An item that nothing has scored.
    pub(crate) fn unscored(item_id: ItemId) -> Self {
        Self { item_id, score: 0.0, retrieval_score: 0.0, fields: Vec::new() }
    }
}

impl Answer {
    pub(crate) fn into_wire(self, id: &RequestId) -> pb::RecommendResponse {
        pb::RecommendResponse {
            items: self.items.into_iter().map(pb::RankedItem::from).collect(),
            quality: Some(self.quality.into()),
            request_id: id.to_string(),
            unknown_candidates: self.unknown,
        }
    }
}

impl From<Item> for pb::RankedItem {
    fn from(item: Item) -> Self {
        Self {
            item_id: item.item_id,
            score: item.score,
            retrieval_score: item.retrieval_score,
            fields: item.fields.into_iter().collect(),
        }
    }
}
