//! Which images go: by the time for which nothing has used them, and when the disk is nearly full. Pure.

use std::time::Duration;

/// Under pressure too an image stays for so long after its last use: it may have been pulled for a container that is not made yet.
const PRESSURE_AGE: Duration = Duration::from_secs(120);

/// When images go that the agent pulled and nothing uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageGc {
    /// Unused for so long. Absent: never for that.
    pub age: Option<Duration>,
    /// The use of the disk, in percent, from which on the longest unused ones go at once. Absent: never for that.
    pub high_percent: Option<u8>,
    /// Until the use is down to this.
    pub low_percent: u8,
    /// Shortest time for which one is unused that goes so.
    pub pressure_age: Duration,
}

impl Default for ImageGc {
    fn default() -> Self {
        Self {
            age: Some(Duration::from_secs(7 * 24 * 3600)),
            high_percent: Some(85),
            low_percent: 80,
            pressure_age: PRESSURE_AGE,
        }
    }
}

/// An image that the agent pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// How long nothing has used it. Absent: something does.
    pub(super) unused: Option<Duration>,
    /// Its size. Other images may share a part of it.
    pub(super) bytes: u64,
}

/// The file system that Docker keeps images on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) used_bytes: u64,
    pub(super) total_bytes: u64,
}

/// Whether `room` is used to `percent` at least.
fn is_used_to(room: Room, percent: u8) -> bool {
    u128::from(room.used_bytes) * 100 >= u128::from(room.total_bytes) * u128::from(percent)
}

/// Whether `room` is so full that images go for that.
fn is_pressed(room: Room, gc: ImageGc) -> bool {
    gc.high_percent.is_some_and(|high| is_used_to(room, high))
}

/// Whether it was told that the disk is full and no image can go. It is told once, and again only after the disk was down to the lower threshold.
#[derive(Debug, Default)]
pub(super) struct Told(bool);

impl Told {
    /// Whether it is to be told now. `left` is what is still there after a pass that removed nothing.
    pub(super) fn is_due(&mut self, left: &[Candidate], room: Option<Room>, gc: ImageGc) -> bool {
        let Some(room) = room else { return false };
        if !is_pressed(room, gc) {
            self.0 &= is_used_to(room, gc.low_percent.saturating_add(1));
            return false;
        }
        // What is only too young goes soon.
        let goes = |image: &Candidate| image.unused.is_some_and(|unused| unused < gc.pressure_age);
        !left.iter().any(goes) && !std::mem::replace(&mut self.0, true)
    }
}

/// The images to remove, by their places in `images`, the longest unused first.
pub(super) fn decide(images: &[Candidate], room: Option<Room>, gc: ImageGc) -> Vec<usize> {
    let mut unused: Vec<(Duration, usize)> =
        images.iter().enumerate().filter_map(|(at, image)| Some((image.unused?, at))).collect();
    unused.sort_by(|a, b| b.cmp(a));
    let mut room = room.filter(|room| is_pressed(*room, gc));
    let mut going = Vec::new();
    for (for_long, at) in unused {
        let aged = gc.age.is_some_and(|age| for_long >= age);
        // Down to the lower threshold, as far as sizes tell.
        let in_the_way = room.is_some_and(|room| is_used_to(room, gc.low_percent.saturating_add(1)))
            && for_long >= gc.pressure_age;
        if aged || in_the_way {
            going.push(at);
            if let Some(room) = &mut room {
                room.used_bytes = room.used_bytes.saturating_sub(images[at].bytes);
            }
        }
    }
    going
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GC: ImageGc = ImageGc {
        age: Some(Duration::from_secs(1000)),
        high_percent: Some(85),
        low_percent: 80,
        pressure_age: Duration::from_secs(10),
    };

    fn images() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (prop::option::of(0..2000u64), 0..30u64)
            .prop_map(|(unused, bytes)| Candidate { unused: unused.map(Duration::from_secs), bytes });
        prop::collection::vec(one, 0..12)
    }

    proptest! {
        #[test]
        fn what_is_used_or_young_stays_and_what_is_old_goes(images in images(), used in 0..=100u64) {
            let room = Room { used_bytes: used, total_bytes: 100 };
            let going = decide(&images, Some(room), GC);
            for (at, image) in images.iter().enumerate() {
                let goes = going.contains(&at);
                match image.unused {
                    None => prop_assert!(!goes),
                    Some(unused) if unused >= Duration::from_secs(1000) => prop_assert!(goes),
                    Some(unused) if unused < GC.pressure_age => prop_assert!(!goes),
                    Some(_) => prop_assert!(!goes || used >= 85),
                }
            }
        }

        #[test]
        fn under_pressure_the_longest_unused_go_first_and_no_more_than_needed(images in images(), used in 85..=100u64) {
            let room = Room { used_bytes: used, total_bytes: 100 };
            let gc = ImageGc { age: None, ..GC };
            let going = decide(&images, Some(room), gc);
            let unused = |at: &usize| images[*at].unused;
            prop_assert!(going.is_sorted_by(|a, b| unused(a) >= unused(b)));
            let freed = |going: &[usize]| going.iter().map(|at| images[*at].bytes).sum::<u64>();
            if let Some((_, but_last)) = going.split_last() {
                prop_assert!(used.saturating_sub(freed(but_last)) > 80, "the last one was not needed");
            }
            // All that may go went, or it is enough.
            let stays = |at: &usize| !going.contains(at) && unused(at).is_some_and(|age| age >= gc.pressure_age);
            let left = (0..images.len()).filter(stays).count();
            prop_assert!(left == 0 || used.saturating_sub(freed(&going)) <= 80);
        }

        #[test]
        fn what_was_decided_and_done_is_not_decided_again(images in images(), used in 0..=100u64) {
            let room = Room { used_bytes: used, total_bytes: 100 };
            let going = decide(&images, Some(room), GC);
            let freed: u64 = going.iter().map(|at| images[*at].bytes).sum();
            let left: Vec<Candidate> =
                images.iter().enumerate().filter(|(at, _)| !going.contains(at)).map(|(_, one)| *one).collect();
            let room = Room { used_bytes: used.saturating_sub(freed), total_bytes: 100 };
            prop_assert!(decide(&left, Some(room), GC).iter().all(|at| left[*at].bytes == 0));
        }
    }

    #[test]
    fn a_full_disk_that_no_image_can_ease_is_told_once_until_it_was_eased() {
        let used = Candidate { unused: None, bytes: 1 };
        let young = Candidate { unused: Some(Duration::from_secs(9)), bytes: 1 };
        let stuck = Candidate { unused: Some(Duration::from_secs(10)), bytes: 1 };
        let at = |used_bytes| Some(Room { used_bytes, total_bytes: 100 });
        let mut told = Told::default();
        assert!(!told.is_due(&[used], at(84), GC), "there is room");
        assert!(!told.is_due(&[used, young], at(90), GC), "one goes soon");
        assert!(told.is_due(&[used, stuck], at(90), GC));
        for used_bytes in [85, 100, 84, 81, 85] {
            assert!(!told.is_due(&[used], at(used_bytes), GC), "it was told: {used_bytes}");
        }
        assert!(!told.is_due(&[used], None, GC) && !told.is_due(&[], at(99), GC), "still");
        assert!(!told.is_due(&[used], at(80), GC), "it is eased");
        assert!(told.is_due(&[], at(85), GC), "and full again");
        let off = ImageGc { high_percent: None, ..GC };
        assert!(!Told::default().is_due(&[], at(100), off), "it is turned off");
    }

    #[test]
    fn without_thresholds_nothing_goes() {
        let old = Candidate { unused: Some(Duration::MAX), bytes: 1 };
        let full = Room { used_bytes: 100, total_bytes: 100 };
        let off = ImageGc { age: None, high_percent: None, ..GC };
        assert!(decide(&[old], Some(full), off).is_empty());
        assert!(decide(&[old], None, ImageGc { age: None, ..GC }).is_empty(), "the disk is not known");
    }
}
