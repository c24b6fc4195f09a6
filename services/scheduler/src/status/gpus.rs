//! What an instance really has of its node's GPUs.

use skerry_model::GpuBooking;
use skerry_proto::gpu::v1::Booking;

/// What is booked, with the isolation that the node found where that is less.
pub(super) fn granted(booked: &[GpuBooking], reported: &[Booking]) -> Vec<Booking> {
    let of = |booking: &GpuBooking| {
        let wire = booking.to_proto();
        let mut same = reported.iter().filter(|one| one.gpu == wire.gpu && one.mig_device == wire.mig_device);
        let found = same.find_map(GpuBooking::from_proto).map(|found| found.isolation);
        let isolation = found.map_or(booking.isolation, |found| found.min(booking.isolation));
        GpuBooking { isolation, ..booking.clone() }.to_proto()
    };
    booked.iter().map(of).collect()
}
