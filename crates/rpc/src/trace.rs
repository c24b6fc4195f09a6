//! W3C trace context between spans and what carries it: metadata of calls, records of the store, frames to agents.
//!
//! All of it does nothing in a process that exports no traces: then no span has a context, and the text is empty.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Where a call carries its trace context.
pub const TRACE_PARENT: &str = "traceparent";

/// Length of a context of version 00; later versions may be longer.
const LENGTH: usize = 55;

/// The context of `span`, as what follows from it shall name its parent. Empty: it has none.
pub fn trace_parent(span: &Span) -> String {
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return String::new();
    }
    format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8())
}

/// Makes `span`, which has just been made, a child of the remote span that `trace_parent` names, and notes its trace in its field
/// `trace_id`, so that log lines within it have that. What does not parse counts as no parent.
pub fn follow(span: &Span, trace_parent: &str) {
    if let Some(parent) = parse(trace_parent) {
        // An error means that nobody exports traces.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
    note_trace(span);
}

/// Notes the trace of `span` in its field `trace_id`, for log lines.
pub fn note_trace(span: &Span) {
    let context = span.context();
    let trace = context.span().span_context().trace_id();
    if trace != TraceId::INVALID {
        span.record("trace_id", tracing::field::display(trace));
    }
}

/// Notes on `span` that what `trace_parent` names led to it too.
pub fn link(span: &Span, trace_parent: &str) {
    if let Some(cause) = parse(trace_parent) {
        span.add_link(cause);
    }
}

/// Reads a `traceparent`. Of versions after 00 the part that all have is read, as the standard asks.
fn parse(text: &str) -> Option<SpanContext> {
    let known = text.get(..LENGTH)?;
    let lower = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let parts: Vec<&str> = known.split('-').collect();
    let [version, trace, span, flags] = parts[..] else { return None };
    let sizes = [version.len(), trace.len(), span.len(), flags.len()];
    if sizes != [2, 32, 16, 2] || ![version, trace, span, flags].into_iter().all(lower) || version == "ff" {
        return None;
    }
    let ends = text.len() == LENGTH || (version != "00" && text.as_bytes()[LENGTH] == b'-');
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::NONE,
    );
    (ends && context.is_valid()).then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_as_the_standard_writes_it() {
        let context = parse(GOOD).expect("it is the standard's own example");
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.is_sampled() && context.is_remote());
        assert!(parse(&format!("01{}-more", &GOOD[2..])).is_some(), "a later version");
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &GOOD.to_uppercase(),
            &GOOD.replace("00f067aa0ba902b7", "0000000000000000"),
            &format!("ff{}", &GOOD[2..]),
            "é0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn without_an_exporter_there_is_no_context() {
        let span = tracing::info_span!("x", trace_id = tracing::field::Empty);
        follow(&span, GOOD);
        assert_eq!(trace_parent(&span), "");
    }
}
