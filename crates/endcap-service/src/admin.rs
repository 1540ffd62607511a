//! `/livez`, `/readyz`, `/metrics` and `/log-level`, on a listener of their own.

use std::net::SocketAddr;

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::IntoResponse,
    routing::{get, post},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{ReadinessParts, ServeError, Settings, exemplars, telemetry};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminConfig {
    pub listen: SocketAddr,
}

impl AdminConfig {
    pub fn read(settings: &mut Settings) -> Option<Self> {
        Some(Self { listen: settings.read("admin.listen")? })
    }
}

/// The admin listener of a process, for all of its services.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
    readiness: ReadinessParts,
}

impl AdminServer {
    pub async fn bind(
        config: &AdminConfig,
        readiness: impl Into<ReadinessParts>,
    ) -> Result<Self, ServeError> {
        let refused = |source| ServeError::Bind { role: "admin", address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        telemetry::metrics_handle();
        Ok(Self { listener, address, readiness: readiness.into() })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), ServeError> {
        let router = Router::new()
            .route("/livez", get(async || "ok"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/log-level", post(set_log_level))
            .with_state(self.readiness);
        let ended = shutdown.clone();
        let server =
            axum::serve(self.listener, router).with_graceful_shutdown(async move { ended.cancelled().await });
        server.await.map_err(|source| ServeError::Serve { role: "admin", detail: source.to_string() })
    }
}

/// OpenMetrics, with exemplars, for who asks for it; as Prometheus does.
async fn metrics(asked: HeaderMap) -> impl IntoResponse {
    let accepted = asked.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (content_type, text) = if accepted.into_iter().any(|types| types.contains(exemplars::MEDIA_TYPE)) {
        (exemplars::CONTENT_TYPE, exemplars::EXEMPLARS.open_metrics(&telemetry::scrape()))
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", telemetry::scrape())
    };
    ([(CONTENT_TYPE, content_type)], text)
}

async fn readyz(State(readiness): State<ReadinessParts>) -> (StatusCode, String) {
    let pending = readiness.pending();
    if pending.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", pending.join(", ")))
    }
}

async fn set_log_level(body: String) -> (StatusCode, String) {
    match telemetry::set_log_filter(body.trim()) {
        Ok(()) => {
            tracing::info!(filter = body.trim(), "log filter changed");
            (StatusCode::OK, "ok\n".to_owned())
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
