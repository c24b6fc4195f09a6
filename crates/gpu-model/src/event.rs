//! What happens to a device.

use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::frame_event::Kind;

use crate::cut;
use crate::place::TEXT_BYTES_MAX;

/// Most bytes of what the driver wrote of an error.
pub const MESSAGE_BYTES_MAX: usize = 256;

/// Something that happened to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The driver reported an error.
    Xid {
        /// Its number: see [`crate::xid`].
        code: u32,
        /// The process that it was laid to. 0: none.
        pid: u32,
        /// That process's instance. Empty: none is known.
        instance: String,
        /// What the driver wrote. Empty: not known. Cut to [`MESSAGE_BYTES_MAX`] when it is sent.
        message: String,
    },
    /// ECC found errors in memory.
    Ecc {
        /// Whether they were corrected.
        corrected: bool,
        /// How many, at least 1.
        count: u32,
    },
    /// It does not answer any more.
    Lost,
    /// It answers anew, after its driver was loaded again or it was reset.
    Reset,
}

impl Event {
    /// An error of the driver's of which nothing but the number is known.
    pub fn xid(code: u32) -> Self {
        Self::Xid { code, pid: 0, instance: String::new(), message: String::new() }
    }

    /// As it travels.
    pub fn to_wire(&self) -> Kind {
        match self {
            Self::Xid { code, pid, instance, message } => Kind::Xid(pb::XidEvent {
                code: *code,
                pid: *pid,
                instance: cut(instance, TEXT_BYTES_MAX).to_owned(),
                message: cut(message, MESSAGE_BYTES_MAX).to_owned(),
            }),
            Self::Ecc { corrected, count } => {
                Kind::Ecc(pb::EccEvent { corrected: *corrected, count: *count })
            }
            Self::Lost => Kind::Lost(pb::LostEvent {}),
            Self::Reset => Kind::Reset(pb::ResetEvent {}),
        }
    }

    pub(crate) fn from_wire(kind: &Kind) -> Self {
        match kind {
            Kind::Xid(xid) => Self::Xid {
                code: xid.code,
                pid: xid.pid,
                instance: cut(&xid.instance, TEXT_BYTES_MAX).to_owned(),
                message: cut(&xid.message, MESSAGE_BYTES_MAX).to_owned(),
            },
            Kind::Ecc(ecc) => Self::Ecc { corrected: ecc.corrected, count: ecc.count.max(1) },
            Kind::Lost(pb::LostEvent {}) => Self::Lost,
            Kind::Reset(pb::ResetEvent {}) => Self::Reset,
        }
    }
}
