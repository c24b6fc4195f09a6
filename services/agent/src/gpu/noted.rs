//! Bookings as they are noted on a copy when it is made: so it is known what that one holds, whatever is wanted by then, and whichever process of the agent asks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use prost::Message as _;
use skerry_model::GpuBooking;
use skerry_proto::gpu::v1 as pb;

/// In one line: each encoded as it travels, in Base64, with spaces between. Empty: there are none.
pub(crate) fn noted(bookings: &[GpuBooking]) -> String {
    let one = |booking: &GpuBooking| BASE64.encode(booking.to_proto().encode_to_vec());
    bookings.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// What was noted. What does not read is passed over: other hands wrote it, or an agent to come.
pub(crate) fn read_noted(text: &str) -> Vec<GpuBooking> {
    let one = |part: &str| {
        let wire = pb::Booking::decode(BASE64.decode(part).ok()?.as_slice()).ok()?;
        GpuBooking::from_proto(&wire)
    };
    text.split(' ').filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use skerry_model::{GpuId, GpuIsolation, GpuShare};

    use super::*;

    #[test]
    fn what_is_noted_is_read_back_and_what_was_not_is_passed_over() {
        let booking = |n: u8, share| GpuBooking {
            gpu: GpuId::parse(&format!("GPU-{n}")).unwrap(),
            share,
            isolation: GpuIsolation::Accounted,
        };
        let share = GpuShare::Part { memory_bytes: Some(8 << 30), compute_percent: None };
        let all = vec![booking(0, GpuShare::Whole), booking(1, share)];
        assert_eq!(read_noted(&noted(&all)), all);
        assert_eq!((noted(&[]), read_noted("")), (String::new(), vec![]));
        let spoilt = format!("x {} AAAA", noted(&all[1..]));
        assert_eq!(read_noted(&spoilt), all[1..]);
    }
}
