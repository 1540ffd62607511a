//! `bench-echo [ADDRESS]`: the floor under the gateway: a tonic server that answers every Recommend with the same page and
//! does nothing else. Prints its address.
#![expect(clippy::print_stdout, reason = "its output is its result")]

use endcap_proto::pb::{
    self,
    recommend_service_server::{RecommendService, RecommendServiceServer},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

struct Echo(pb::RecommendResponse);

#[tonic::async_trait]
impl RecommendService for Echo {
    async fn recommend(
        &self,
        request: Request<pb::RecommendRequest>,
    ) -> Result<Response<pb::RecommendResponse>, Status> {
        std::hint::black_box(request.into_inner());
        Ok(Response::new(self.0.clone()))
    }
}

/// Ten items, as long as those of the bench's catalogue.
fn page() -> pb::RecommendResponse {
    let items =
        (0..10).map(|i| pb::RankedItem { item_id: format!("item-{i:06}"), score: 0.5, ..Default::default() });
    let coverage = pb::Coverage { items_scored: 1, items_total: 1, ..Default::default() };
    let quality = pb::Quality {
        rung: pb::Rung::Full.into(),
        model: "bench-ranker".to_owned(),
        version: 1,
        digest: "0".repeat(64),
        arm: "stable".to_owned(),
        coverage: Some(coverage),
        ..Default::default()
    };
    pb::RecommendResponse { items: items.collect(), quality: Some(quality), ..Default::default() }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("http://{}", listener.local_addr()?);
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(RecommendServiceServer::new(Echo(page())))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}
