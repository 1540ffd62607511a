//! Small records beside the bundles, each written once: what must outlive the coordinator.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, path::Path as ObjectPath};

use crate::{BundleError, BundleStore};

/// Records by name, below one folder of the store. Names are paths of lower-case words, digits, `-`, `_` and `.`.
#[derive(Debug, Clone)]
pub struct Journal {
    objects: Arc<dyn ObjectStore>,
    folder: ObjectPath,
}

impl BundleStore {
    /// The journal in a folder of its own beside the bundles.
    pub fn journal(&self, folder: &str) -> Journal {
        Journal { objects: self.objects(), folder: ObjectPath::from(folder) }
    }
}

impl Journal {
    /// Writes a record, unless there is one of this name already: that one stays. Tells whether it was written.
    pub async fn append(&self, name: &str, record: Vec<u8>) -> Result<bool, BundleError> {
        let object = self.object(name);
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.objects.put_opts(&object, record.into(), create).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(source) => Err(BundleError::Store { action: "write", what: object.to_string(), source }),
        }
    }

    /// Names of the records, ascending.
    pub async fn names(&self) -> Result<Vec<String>, BundleError> {
        let failed = |source| BundleError::Store { action: "list", what: self.folder.to_string(), source };
        let found: Vec<ObjectPath> = self
            .objects
            .list(Some(&self.folder))
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .map_err(failed)?;
        let name = |object: ObjectPath| {
            let parts = object.prefix_match(&self.folder)?;
            Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
        };
        let mut names: Vec<String> = found.into_iter().filter_map(name).collect();
        names.sort_unstable();
        Ok(names)
    }

    pub async fn read(&self, name: &str) -> Result<Bytes, BundleError> {
        let object = self.object(name);
        let failed = |source| BundleError::Store { action: "read", what: object.to_string(), source };
        self.objects.get(&object).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    fn object(&self, name: &str) -> ObjectPath {
        let parts = name.split('/').map(object_store::path::PathPart::from);
        self.folder.parts().chain(parts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_record_is_written_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().join("store").display().to_string();
        let store = BundleStore::folder(&url).unwrap();
        let journal = store.journal("ledger/endcap");
        assert_eq!(journal.names().await.unwrap(), Vec::<String>::new());
        assert!(journal.append("2/shop/0001.json", b"one".to_vec()).await.unwrap());
        assert!(journal.append("1/shop/0001.json", b"none".to_vec()).await.unwrap());
        assert!(!journal.append("2/shop/0001.json", b"two".to_vec()).await.unwrap());
        assert_eq!(journal.names().await.unwrap(), ["1/shop/0001.json", "2/shop/0001.json"]);
        assert_eq!(journal.read("2/shop/0001.json").await.unwrap(), "one");
        assert!(store.journal("ledger/other").names().await.unwrap().is_empty());
        assert!(journal.read("3").await.unwrap_err().to_string().contains("ledger/endcap/3"));
    }
}
