//! What an instance has of its node's GPUs.

use skerry_model::GpuBooking;
use skerry_model::gpu::granted;
use skerry_proto::gpu::v1::Booking;
use skerry_proto::types::v1::InstanceStatus;

/// Of one that is booked so, by what its node told last.
pub(super) fn gpus_of(booked: &[GpuBooking], status: &InstanceStatus) -> Vec<Booking> {
    let held = granted(booked, &status.gpus, status.start_time.is_some());
    held.iter().map(GpuBooking::to_proto).collect()
}
