//! The shop as files, in the layout of a real data folder, so that the same commands work on both.

use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc};

use anyhow::Context as _;
use arrow::{
    array::{ArrayRef, BooleanArray, Float32Array, Int8Array, Int32Array, RecordBatch, StringArray},
    datatypes::{Field, Schema},
};
use parquet::arrow::ArrowWriter;

use crate::{Grade, Shop};

/// Writes `products`, `queries_open`, `labels_open`, `replay_queries` and `events`, each a Parquet file.
pub fn write(shop: &Shop, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    table(folder, "products", products(shop))?;
    table(folder, "queries_open", queries(shop))?;
    table(folder, "labels_open", labels(shop))?;
    let replayed = shop.queries.iter().map(|query| query.text.as_str());
    table(folder, "replay_queries", vec![("query", texts(replayed))])?;
    table(folder, "events", events(shop))?;
    table(folder, "shoppers", shoppers(shop))
}

type Columns = Vec<(&'static str, ArrayRef)>;

fn products(shop: &Shop) -> Columns {
    let products = &shop.products;
    #[expect(clippy::cast_possible_truncation, reason = "prices and ratings have few digits")]
    let narrow = |value: f64| value as f32;
    vec![
        ("item_idx", ints((0..).take(products.len()))),
        ("product_id", texts(products.iter().map(|p| p.id.as_str()))),
        ("name", texts(products.iter().map(|p| p.name()).collect::<Vec<_>>().iter().map(String::as_str))),
        ("product_class", texts(products.iter().map(|p| p.class.name))),
        (
            "category_hierarchy",
            texts(products.iter().map(|p| p.hierarchy()).collect::<Vec<_>>().iter().map(String::as_str)),
        ),
        ("brand", texts(products.iter().map(|p| p.brand))),
        ("color", texts(products.iter().map(|p| p.color))),
        ("text", texts(products.iter().map(|p| p.text.as_str()))),
        ("rating", Arc::new(Float32Array::from_iter(products.iter().map(|p| p.rating.map(narrow))))),
        ("review_count", ints(products.iter().map(|p| i32::try_from(p.review_count).unwrap_or(i32::MAX)))),
        ("price", Arc::new(Float32Array::from_iter(products.iter().map(|p| p.price.map(narrow))))),
        ("is_book", Arc::new(BooleanArray::from(vec![false; products.len()]))),
    ]
}

fn queries(shop: &Shop) -> Columns {
    vec![
        ("query_id", ints(shop.queries.iter().map(|query| id(query.id)))),
        ("query", texts(shop.queries.iter().map(|query| query.text.as_str()))),
        ("split", texts(shop.queries.iter().map(|_| "open"))),
    ]
}

fn labels(shop: &Shop) -> Columns {
    let labels = &shop.labels;
    let grade = |grade: Grade| grade as i8;
    vec![
        ("query_id", ints(labels.iter().map(|label| id(label.query_id)))),
        ("product_id", texts(labels.iter().map(|label| shop.products[label.product].id.as_str()))),
        ("item_idx", ints(labels.iter().map(|label| i32::try_from(label.product).unwrap_or(i32::MAX)))),
        ("label", texts(labels.iter().map(|label| label.grade.as_str()))),
        ("grade", Arc::new(Int8Array::from_iter_values(labels.iter().map(|label| grade(label.grade))))),
        (
            "esci_gain",
            Arc::new(Float32Array::from_iter_values(labels.iter().map(|label| label.grade.gain()))),
        ),
    ]
}

fn events(shop: &Shop) -> Columns {
    let queries: BTreeMap<u32, &str> =
        shop.queries.iter().map(|query| (query.id, query.text.as_str())).collect();
    let events: Vec<_> = shop.events().collect();
    vec![
        ("shopper_id", texts(events.iter().map(|event| shop.shoppers[event.shopper].id.as_str()))),
        (
            "query",
            texts(events.iter().map(|event| queries.get(&event.query_id).copied().unwrap_or_default())),
        ),
        ("product_id", texts(events.iter().map(|event| shop.products[event.product].id.as_str()))),
        ("position", ints(events.iter().map(|event| id(event.position)))),
        ("clicked", Arc::new(BooleanArray::from_iter(events.iter().map(|event| Some(event.clicked))))),
        ("purchased", Arc::new(BooleanArray::from_iter(events.iter().map(|event| Some(event.purchased))))),
    ]
}

fn shoppers(shop: &Shop) -> Columns {
    #[expect(clippy::cast_possible_truncation, reason = "two digits")]
    let affinity = shop.shoppers.iter().map(|shopper| shopper.price_affinity as f32);
    vec![
        ("shopper_id", texts(shop.shoppers.iter().map(|shopper| shopper.id.as_str()))),
        ("price_affinity", Arc::new(Float32Array::from_iter_values(affinity))),
        ("favourite_brand", texts(shop.shoppers.iter().map(|shopper| shopper.favourite_brand))),
    ]
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn ints(values: impl Iterator<Item = i32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(values))
}

fn id(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn table(folder: &Path, name: &str, columns: Columns) -> anyhow::Result<()> {
    let path = folder.join(format!("{name}.parquet"));
    let fields: Vec<_> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, column)| column).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None)?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShopOptions;

    #[test]
    fn the_same_shop_makes_the_same_bytes() {
        let shop =
            Shop::generate(&ShopOptions { items: 200, queries: 20, pages: 50, ..ShopOptions::default() });
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for folder in &folders {
            write(&shop, folder.path()).unwrap();
        }
        for file in ["products", "queries_open", "labels_open", "replay_queries", "events", "shoppers"] {
            let [one, two] = folders
                .each_ref()
                .map(|folder| std::fs::read(folder.path().join(format!("{file}.parquet"))).unwrap());
            assert!(one == two, "{file} differs");
        }
    }
}
