//! The catalogue in code is the one in the contract.

use prost::Message as _;
use prost_types::FileDescriptorSet;
use skerry_gpu_model::{Absent, Field};

/// Values of an enum of the contract, without the zero: number and name without its prefix, in small letters.
fn values(of: &str, prefix: &str) -> Vec<(u32, String)> {
    let set = FileDescriptorSet::decode(skerry_proto::FILE_DESCRIPTOR_SET).expect("the build made it");
    let gpu = set.file.iter().filter(|file| file.package() == "skerry.gpu.v1");
    let found = gpu.flat_map(|file| &file.enum_type).find(|declared| declared.name() == of);
    let values = found.expect("it is in the contract").value.iter().filter(|value| value.number() != 0);
    values
        .map(|value| {
            let name = value.name().strip_prefix(prefix).expect("it has its prefix").to_lowercase();
            (value.number().unsigned_abs(), name)
        })
        .collect()
}

#[test]
fn each_field_of_the_contract_is_in_the_catalogue_under_its_number_and_name() {
    let ours: Vec<(u32, String)> =
        Field::ALL.into_iter().map(|field| (field.number(), field.name().to_owned())).collect();
    assert_eq!(values("Field", "FIELD_"), ours);
}

#[test]
fn each_reason_of_the_contract_is_known() {
    let reasons = values("AbsentReason", "ABSENT_REASON_");
    assert_eq!(reasons.len(), Absent::ALL.len());
    for (number, name) in reasons {
        let known = Absent::from_wire(number.cast_signed());
        assert_eq!(known.to_wire() as i32, number.cast_signed(), "{name}");
    }
    assert_eq!(Absent::from_wire(99), Absent::DriverError);
}

#[test]
fn a_name_ends_in_its_unit_and_numbers_tell_how_often_it_is_read() {
    use skerry_gpu_model::field::{Cadence, Unit};
    for field in Field::ALL {
        let spec = field.spec();
        let end = match spec.unit {
            Unit::Percent => "_percent",
            Unit::Permille => "_permille",
            Unit::Bytes => "_bytes",
            Unit::BytesPerSecond => "_bytes_per_second",
            Unit::Celsius => "_celsius",
            Unit::Milliwatts => "_milliwatts",
            Unit::Millijoules => "_millijoules",
            Unit::Megahertz => "_megahertz",
            Unit::Milliseconds => "_milliseconds",
            Unit::Count | Unit::State => "",
        };
        assert!(field.name().ends_with(end), "{field}");
        let cadence = match field.number() {
            1..30 => Cadence::Second,
            30..60 => Cadence::TenSeconds,
            _ => Cadence::Minute,
        };
        assert_eq!(spec.cadence, cadence, "{field}");
    }
}
