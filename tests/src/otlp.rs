//! A real OTLP receiver, a dozen lines of tonic: what a collector would be told.

use std::{net::SocketAddr, sync::Arc};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
};
use tokio::{net::TcpListener, sync::Mutex};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// A span as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The role that sent it.
    pub service: String,
    pub name: String,
    /// Lower-case hex.
    pub trace: String,
    pub id: Vec<u8>,
    pub parent: Vec<u8>,
    /// Attributes as text.
    pub attributes: Vec<(String, String)>,
}

/// Keeps every span it is sent.
#[derive(Debug, Clone, Default)]
pub struct Receiver {
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Receiver {
    /// Listens on a free port.
    #[expect(clippy::disallowed_methods, reason = "a test's equipment is nobody's background task")]
    pub async fn start() -> anyhow::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let receiver = Self::default();
        let service = TraceServiceServer::new(receiver.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Ok((receiver, address))
    }

    /// The spans of one trace so far.
    pub async fn of(&self, trace: &str) -> Vec<Span> {
        self.spans.lock().await.iter().filter(|span| span.trace == trace).cloned().collect()
    }

    /// Every span so far.
    pub async fn all(&self) -> Vec<Span> {
        self.spans.lock().await.clone()
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.spans.lock().await;
        for resource in request.into_inner().resource_spans {
            let of = resource.resource.map(|resource| texts(resource.attributes)).unwrap_or_default();
            let service = of.into_iter().find(|(key, _)| key == "service.name").map(|(_, name)| name);
            let service = service.unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Span {
                    service: service.clone(),
                    name: span.name,
                    trace: span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect(),
                    id: span.span_id,
                    parent: span.parent_span_id,
                    attributes: texts(span.attributes),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn texts(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let one = |attribute: KeyValue| Some((attribute.key, text(attribute.value?.value?)));
    attributes.into_iter().filter_map(one).collect()
}
