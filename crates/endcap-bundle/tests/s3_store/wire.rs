//! What stands between a store and its server.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
};

/// After so many bytes in one direction it stops, still connected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) asked: u64,
    pub(crate) served: u64,
}

pub(crate) const NONE: Limits = Limits { asked: u64::MAX, served: u64::MAX };

/// Passes bytes on and counts them.
pub(crate) struct Wire {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    asked: AtomicU64,
    served: AtomicU64,
    stalled: Notify,
    /// Has permits once the wire should go on.
    resumed: Semaphore,
}

impl Wire {
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    pub(crate) async fn to(server: &str, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, served) = (AtomicU64::new(0), AtomicU64::new(0));
        let shared = Shared { asked, served, stalled: Notify::new(), resumed: Semaphore::new(0) };
        let shared = Arc::new(shared);
        let (server, passing) = (server.to_owned(), Arc::clone(&shared));
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let to = TcpStream::connect(&server).await.unwrap();
                let ((asking, back), (answering, on)) = (from.into_split(), to.into_split());
                let (up, down) = (Arc::clone(&passing), Arc::clone(&passing));
                tokio::spawn(async move { up.pass(asking, on, &up.asked, limits.asked).await });
                tokio::spawn(async move { down.pass(answering, back, &down.served, limits.served).await });
            }
        });
        Self { address, shared }
    }

    /// Bytes that came back.
    pub(crate) fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Relaxed)
    }

    pub(crate) fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }

    pub(crate) async fn stalled(&self) {
        self.shared.stalled.notified().await;
    }

    /// Passes everything on from now on.
    pub(crate) fn resume(&self) {
        self.shared.resumed.add_permits(1 << 20);
    }
}

impl Shared {
    async fn pass(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        count: &AtomicU64,
        stop_after: u64,
    ) {
        let mut buffer = vec![0; 8 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if count.fetch_add(read as u64, Ordering::Relaxed) >= stop_after {
                self.stalled.notify_one();
                self.resumed.acquire().await.unwrap().forget();
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }
}
