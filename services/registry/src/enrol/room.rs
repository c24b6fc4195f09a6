//! Whether one machine more may wait for approval. Anybody may ask, for any project that is there, so what waits is bounded three times. Pure.

use skerry_model::{Code, Fault};

/// Machines of one project that wait: more than an operator looks through.
pub(crate) const WAITING_MAX: usize = 1000;
/// Machines of all projects that are remembered: those that wait, and for some minutes those that were let in. Each is some hundred bytes in the
/// store.
pub(super) const WAITING_EVERYWHERE_MAX: usize = 10_000;
/// The last places of a project are kept for who comes from elsewhere than most. All may come from one address, through a balancer or from
/// one site, so nothing is kept from an address while there is room.
const KEPT: usize = WAITING_MAX / 4;

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Room {
    /// In all projects, with those that were let in a moment ago: they are not told apart without reading each.
    pub(super) everywhere: usize,
    /// In the machine's project.
    pub(super) project: usize,
    /// Of those, who asked from the machine's address.
    pub(super) address: usize,
}

impl Room {
    /// Lets one machine more wait, or says that it shall come again.
    pub(super) fn admit(self) -> Result<(), Fault> {
        let full = |message: String| Err(Fault::new(Code::ResourceExhausted, "TOO_MANY_WAIT", message));
        if self.everywhere >= WAITING_EVERYWHERE_MAX {
            return full(format!(
                "{WAITING_EVERYWHERE_MAX} machines of all projects wait or were let in a moment ago: try again later"
            ));
        }
        if self.project >= WAITING_MAX {
            return full(format!("{WAITING_MAX} machines of the project wait for approval: try again later"));
        }
        if self.project >= WAITING_MAX - KEPT && self.address >= KEPT {
            return full(format!(
                "{} machines wait for approval from this address, and little room is left: try again later",
                self.address
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `address` are let in, one after the other, when these wait already.
    fn let_in(mut room: Room) -> usize {
        let mut count = 0;
        while room.admit().is_ok() {
            (room.everywhere, room.project, room.address) =
                (room.everywhere + 1, room.project + 1, room.address + 1);
            count += 1;
        }
        count
    }

    #[test]
    fn one_address_never_takes_the_last_places_of_a_project_and_others_get_them() {
        assert_eq!(let_in(Room::default()), WAITING_MAX - KEPT);
        let taken = WAITING_MAX - KEPT;
        assert_eq!(let_in(Room { everywhere: taken, project: taken, address: 0 }), KEPT);
    }

    #[test]
    fn naming_other_projects_makes_no_more_room() {
        let room = Room { everywhere: WAITING_EVERYWHERE_MAX - 1, project: 0, address: 0 };
        assert_eq!(let_in(room), 1);
    }

    #[test]
    fn what_is_full_says_that_one_may_come_again() {
        let fault = Room { everywhere: 0, project: WAITING_MAX, address: 0 }.admit().expect_err("full");
        assert_eq!((fault.code, fault.reason), (Code::ResourceExhausted, "TOO_MANY_WAIT"));
    }
}
