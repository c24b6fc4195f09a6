//! OpenTelemetry's metrics of hardware (semantic conventions, `hw.*`), from the same source. They are read when a collector is sent something, and not
//! otherwise; on `/metrics` they are not told once more.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry::{InstrumentationScope, KeyValue};
use skerry_gpu_model::Field;
use skerry_gpu_model::field::{Instrument, Otel};

use super::{Seen, Visit, visit};
use crate::Shared;

/// Has the process's meters tell of the GPUs that this replica has.
pub(crate) fn register(shared: &Arc<Shared>) {
    let scope = InstrumentationScope::builder(skerry_daemon::HARDWARE_SCOPE).build();
    let meter = opentelemetry::global::meter_with_scope(scope);
    let mut by_name: BTreeMap<&str, Vec<(Field, Otel)>> = BTreeMap::new();
    for field in Field::ALL {
        if let Some(otel) = field.spec().otel {
            by_name.entry(otel.name).or_default().push((field, otel));
        }
    }
    for fields in by_name.into_values() {
        instrument(&meter, fields, Arc::downgrade(shared));
    }
}

fn instrument(meter: &Meter, fields: Vec<(Field, Otel)>, shared: Weak<Shared>) {
    let Some((_, Otel { name, instrument, unit, .. })) = fields.first().copied() else { return };
    let tell = move |observer: &dyn AsyncInstrument<f64>| {
        if let Some(shared) = shared.upgrade() {
            visit(&shared, &mut Observed { fields: &fields, observer });
        }
    };
    // The meter keeps what it has built.
    match instrument {
        Instrument::Gauge => {
            let _ = meter.f64_observable_gauge(name).with_unit(unit).with_callback(tell).build();
        }
        Instrument::Counter => {
            let _ = meter.f64_observable_counter(name).with_unit(unit).with_callback(tell).build();
        }
        Instrument::UpDownCounter => {
            let _ = meter.f64_observable_up_down_counter(name).with_unit(unit).with_callback(tell).build();
        }
    }
}

struct Observed<'a> {
    fields: &'a [(Field, Otel)],
    observer: &'a dyn AsyncInstrument<f64>,
}

impl Visit for Observed<'_> {
    fn node(&mut self, _: &str, _: &str, _: i64) {}

    fn seen(&mut self, seen: &Seen<'_>) {
        for (field, otel) in self.fields {
            let Some(value) = seen.sample.value(*field) else { continue };
            let device = seen.device;
            let mut attributes = vec![
                KeyValue::new("hw.id", seen.part.map_or(&device.uuid, |part| &part.uuid).clone()),
                KeyValue::new("hw.name", format!("GPU {}", device.index)),
                KeyValue::new("hw.type", "gpu"),
                KeyValue::new("hw.model", device.model.clone()),
                KeyValue::new("hw.driver_version", device.driver_version.clone()),
                KeyValue::new("host.name", seen.node.to_owned()),
                KeyValue::new("skerry.project", seen.project.to_owned()),
            ];
            if seen.part.is_some() {
                attributes.push(KeyValue::new("hw.parent", device.uuid.clone()));
            }
            attributes.extend(otel.attributes.iter().map(|(name, value)| KeyValue::new(*name, *value)));
            self.observer.observe(otel.scale.apply(value), &attributes);
        }
    }
}
