//! Who is let in when the gateway has nearly as many requests as it takes.
//!
//! Up to three quarters of the limit everybody is. The rest is for clients that have less than their fair share in
//! flight, so that one client's flood cannot keep the others out.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tonic::metadata::MetadataMap;

use crate::{error::RecommendError, metrics};

/// Metadata that says who calls, until credentials do.
const HEADER: &str = "x-endcap-client";
/// Callers who don't say, together.
const ANONYMOUS: &str = "anonymous";
/// Longer ones are nobody's.
const LONGEST: usize = 64;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClientId(Arc<str>);

impl ClientId {
    pub(crate) fn of(metadata: &MetadataMap) -> Self {
        let usable =
            |text: &&str| (1..=LONGEST).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        let told = metadata.get(HEADER).and_then(|value| value.to_str().ok()).filter(usable);
        Self(told.unwrap_or(ANONYMOUS).into())
    }
}

/// Requests in flight, by client.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    /// Only clients that have some: no more than there are requests in flight.
    clients: Mutex<HashMap<ClientId, usize>>,
}

impl Admission {
    /// A place for one request, until it is dropped. `limit`: more than so many the server does not let through now.
    pub(crate) fn enter(&self, client: ClientId, limit: usize) -> Result<Place<'_>, RecommendError> {
        let mut clients = self.clients.lock();
        let in_flight: usize = clients.values().sum();
        let own = clients.get(&client).copied().unwrap_or_default();
        let others = clients.len() - usize::from(own > 0);
        let share = (limit / (others + 1)).max(1);
        if in_flight >= limit - limit / 4 && own >= share {
            metrics::shed_client();
            return Err(RecommendError::OverShare { client: client.0.as_ref().to_owned(), own, share });
        }
        clients.insert(client.clone(), own + 1);
        Ok(Place { admission: self, client })
    }
}

/// One request in flight.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    admission: &'a Admission,
    client: ClientId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut clients = self.admission.clients.lock();
        match clients.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use endcap_types::{Coded as _, ErrorCode};

    use super::*;

    fn client(name: &str) -> ClientId {
        let mut metadata = MetadataMap::new();
        metadata.insert(HEADER, name.parse().unwrap());
        ClientId::of(&metadata)
    }

    /// As many places as the client gets.
    fn fill<'a>(admission: &'a Admission, name: &str, most: usize) -> Vec<Place<'a>> {
        std::iter::from_fn(|| admission.enter(client(name), 100).ok()).take(most).collect()
    }

    #[test]
    fn a_client_alone_may_have_everything() {
        let admission = Admission::default();
        assert_eq!(fill(&admission, "a", 1000).len(), 100);
    }

    #[test]
    fn a_flood_leaves_the_others_their_share() {
        let admission = Admission::default();
        let small = fill(&admission, "small", 1);
        let flood = fill(&admission, "flood", 1000);
        assert_eq!(flood.len(), 74, "three quarters, together with the other's");
        let late = fill(&admission, "late", 25);
        assert_eq!(late.len(), 25, "all that is left is for those below their share");
        let error = admission.enter(client("flood"), 100).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Overloaded);
        assert!(error.retry_after().is_some() && error.to_string().contains("flood"), "{error}");
        drop((flood, late, small));
        assert!(admission.clients.lock().is_empty(), "somebody is remembered who has nothing in flight");
    }

    #[test]
    fn callers_who_do_not_say_who_they_are_are_one_client() {
        let long = "x".repeat(65);
        for name in [long.as_str(), "two words"] {
            assert_eq!(client(name), ClientId::of(&MetadataMap::new()));
        }
        assert_ne!(client("shop"), ClientId::of(&MetadataMap::new()));
    }
}
