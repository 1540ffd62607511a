//! Log lines. Each names the call that it was written in; a call that writes none pays nothing for that.

use std::fmt;

use serde_json::{Value, json};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{DefaultFields, Format, Json, Writer},
    },
    registry::LookupSpan,
};

use crate::traces::{Call, with_call};

/// Fields as they are by default, and then those of the call.
#[derive(Debug, Default)]
pub(crate) struct Fields(DefaultFields);

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        self.0.format_fields(writer.by_ref(), fields)?;
        with_call(|call| {
            let (service, method, request) = (call.service(), call.method(), call.request());
            write!(writer, " rpc={service}/{method} request.id={request}")?;
            call.trace().map_or(Ok(()), |trace| write!(writer, " trace.id={trace}"))
        })
        .unwrap_or(Ok(()))
    }
}

/// Lines of JSON, with the call as `span`.
#[derive(Debug)]
pub(crate) struct JsonLines(pub(crate) Format<Json>);

fn span(call: &Call) -> Value {
    let mut span = json!({
        "name": "rpc",
        "rpc.service": call.service(),
        "rpc.method": call.method(),
        "request.id": call.request().as_str(),
    });
    if let Some(trace) = call.trace() {
        span["trace.id"] = trace.to_string().into();
    }
    span
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        match (line.trim_end().strip_suffix('}'), with_call(span)) {
            (Some(open), Some(span)) => writeln!(writer, "{open},\"span\":{span}}}"),
            _ => writer.write_str(&line),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use futures::FutureExt as _;
    use parking_lot::Mutex;
    use tracing_subscriber::{fmt, layer::SubscriberExt as _};

    use super::*;
    use crate::{
        RequestId,
        traces::{Begun, Line},
    };

    #[derive(Debug, Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of a line within a call, and of one outside.
    fn lines<L>(layer: impl FnOnce(Written) -> L) -> Vec<String>
    where
        L: tracing_subscriber::Layer<tracing_subscriber::Registry> + Send + Sync + 'static,
    {
        let written = Written::default();
        let subscriber = tracing_subscriber::registry().with(layer(written.clone()));
        let id = RequestId::from_header(Some(br#"a"b\\c"#));
        let call = Begun::new("gateway", "Recommend", &id, &Line::default(), tokio::time::Instant::now());
        tracing::subscriber::with_default(subscriber, || {
            let within = call.run(async { tracing::warn!(shard = 3, "late") });
            within.now_or_never().unwrap();
            tracing::warn!("alone");
        });
        let text = String::from_utf8(written.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_of_json_says_whose_it_is() {
        let written = lines(|written| {
            fmt::layer()
                .json()
                .event_format(JsonLines(fmt::format().json()))
                .with_writer(move || written.clone())
        });
        let parsed: Vec<Value> = written.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(parsed[0]["fields"], json!({"message": "late", "shard": 3}));
        let call = json!({"name": "rpc", "rpc.service": "gateway", "rpc.method": "Recommend", "request.id": "a\"b\\\\c"});
        assert_eq!(parsed[0]["span"], call);
        assert_eq!((parsed.len(), parsed[1].get("span")), (2, None));
    }

    #[test]
    fn a_line_for_people_ends_with_whose_it_is() {
        let written = lines(|written| {
            fmt::layer()
                .compact()
                .fmt_fields(Fields::default())
                .with_ansi(false)
                .with_writer(move || written.clone())
        });
        assert!(
            written[0].ends_with(r#"late shard=3 rpc=gateway/Recommend request.id=a"b\\c"#),
            "{written:?}"
        );
        assert!(written[1].ends_with("alone"), "{written:?}");
    }
}
