//! Encoding a query for a gateway.

use endcap_proto::{columns, pb};
use endcap_service::Deadline;

use crate::{error::WorkError, holdings::Holdings, score::pin};

pub(crate) async fn encode(
    holdings: &Holdings,
    request: pb::EncodeRequest,
    deadline: Deadline,
) -> Result<pb::EncodeResponse, WorkError> {
    let pin = pin(request.pin.as_ref())?;
    let model = holdings.model(&pin)?;
    let vector = model.encode(&request.query, deadline.instant()).await?;
    Ok(pb::EncodeResponse { pin: request.pin, vector: columns::encode_f32(&vector) })
}
