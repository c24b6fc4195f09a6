//! The state files against a disk that loses power, rots, and fills up.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::testing::{app, revision_resource, service};

const NODE: &str = "projects/default/nodes/n1";

/// What a crash leaves: names are remembered apart from contents, since each is synced apart.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// What readers see.
    live: BTreeMap<String, Vec<u8>>,
    /// What is there after a power loss.
    durable: BTreeMap<String, Vec<u8>>,
    /// Operations until the power goes. None: it stays.
    power: Option<u32>,
    full: bool,
}

#[derive(Debug, Clone, Default)]
struct MemoryDisk(Rc<RefCell<Memory>>);

impl MemoryDisk {
    /// Uses up one operation.
    fn step(&self) -> io::Result<()> {
        match &mut self.0.borrow_mut().power {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn crash(&self) {
        let mut memory = self.0.borrow_mut();
        memory.live = memory.durable.clone();
        memory.power = None;
    }

    fn rot(&self, name: &str, at: usize) {
        let mut memory = self.0.borrow_mut();
        let bytes = memory.live.get_mut(name).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1;
    }
}

impl Disk for MemoryDisk {
    fn read(&self, name: &str, _: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.borrow().live.get(name).cloned())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.0.borrow().full {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        // Power may go with half of it written: the directory may know the file already.
        if let Err(error) = self.step() {
            let mut memory = self.0.borrow_mut();
            let half = bytes[..bytes.len() / 2].to_vec();
            memory.durable.insert(name.to_owned(), half.clone());
            memory.live.insert(name.to_owned(), half);
            return Err(error);
        }
        self.0.borrow_mut().live.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        let mut memory = self.0.borrow_mut();
        let bytes = memory.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
        memory.live.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.step()?;
        let mut memory = self.0.borrow_mut();
        memory.durable = memory.live.clone();
        Ok(())
    }
}

fn state(revision: i64) -> Desired {
    let resource = revision_resource("shop", &app(vec![service(&format!("web{revision}"))]));
    Desired {
        version: Some(Version::new(1, revision)),
        resources: BTreeMap::from([(resource.name.clone(), Arc::new(resource))]),
    }
}

fn open(disk: &MemoryDisk) -> (StateFiles<MemoryDisk>, Loaded) {
    StateFiles::open(disk.clone(), NODE.to_owned())
}

#[test]
fn what_was_saved_last_is_loaded() {
    let disk = MemoryDisk::default();
    let (mut files, loaded) = open(&disk);
    assert_eq!(loaded, Loaded::default(), "an empty directory is not damaged");
    for revision in 1..6 {
        files.save(&state(revision), "uid").unwrap();
        let (again, loaded) = open(&disk);
        assert_eq!(loaded, Loaded { desired: state(revision), node_uid: "uid".into(), ..Loaded::default() });
        files = again;
    }
}

#[test]
fn the_state_of_another_node_is_not_used() {
    let disk = MemoryDisk::default();
    open(&disk).0.save(&state(1), "uid").unwrap();
    let (_, loaded) = StateFiles::open(disk, "projects/default/nodes/n2".to_owned());
    assert_eq!(loaded, Loaded::default());
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let disk = MemoryDisk::default();
    let (mut files, _) = open(&disk);
    files.save(&state(1), "").unwrap();
    disk.0.borrow_mut().full = true;
    assert!(files.save(&state(2), "").is_err());
    assert_eq!(open(&disk).1.desired, state(1));
    disk.0.borrow_mut().full = false;
    files.save(&state(2), "").unwrap();
    assert_eq!(open(&disk).1.desired, state(2));
}

#[test]
fn when_both_files_are_damaged_nothing_is_known_and_that_is_said() {
    let disk = MemoryDisk::default();
    let (mut files, _) = open(&disk);
    files.save(&state(1), "").unwrap();
    files.save(&state(2), "").unwrap();
    disk.rot("desired.0", 50);
    disk.rot("desired.1", 50);
    let (mut files, loaded) = open(&disk);
    assert_eq!(loaded.desired, Desired::default());
    assert!(loaded.damage.unwrap().contains("checksum"));
    files.save(&state(3), "").unwrap();
    files.save(&state(4), "").unwrap();
    assert_eq!(open(&disk).1, Loaded { desired: state(4), ..Loaded::default() });
}

#[test]
fn former_specs_that_do_not_read_are_told_and_forgotten_alone() {
    let disk = MemoryDisk::default();
    let (mut files, _) = open(&disk);
    files.save(&state(1), "uid").unwrap();
    let before = Before { formers: state(0).resources, good: state(2).resources };
    files.keep(&before).unwrap();
    let loaded = open(&disk).1;
    assert_eq!((loaded.kept, loaded.kept_damage), (before.clone(), None));
    for (file, left) in [
        (FORMERS, Before { formers: Resources::new(), ..before.clone() }),
        (GOOD, Before { good: Resources::new(), ..before.clone() }),
    ] {
        let (mut files, _) = open(&disk);
        files.keep(&before).unwrap();
        disk.rot(file, 60);
        let (mut files, loaded) = open(&disk);
        let damage = loaded.kept_damage.unwrap();
        assert!(damage.starts_with(file) && damage.contains("checksum"), "{damage}");
        assert_eq!((&loaded.kept, loaded.desired, loaded.damage), (&left, state(1), None));
        // Forgotten also on disk, although nothing is what there was to keep.
        files.keep(&left).unwrap();
        assert_eq!(open(&disk).1.kept_damage, None);
    }
}

proptest! {
    #[test]
    fn after_a_power_loss_the_former_specs_are_those_before_or_after(power in 0..8u32) {
        let disk = MemoryDisk::default();
        let (mut files, _) = open(&disk);
        let before = |n: i64| Before { formers: state(n).resources, good: state(n + 2).resources };
        files.keep(&before(1)).unwrap();
        disk.0.borrow_mut().power = Some(power);
        let kept = files.keep(&before(2)).is_ok();
        disk.crash();
        let (_, loaded) = open(&disk);
        prop_assert_eq!(loaded.kept_damage, None);
        if kept {
            prop_assert_eq!(loaded.kept, before(2));
        } else {
            // Each is what it was or what it was to be, the first one first.
            prop_assert!([before(1).formers, before(2).formers].contains(&loaded.kept.formers));
            prop_assert_eq!(loaded.kept.good, before(1).good);
        }
    }

    #[test]
    fn after_a_power_loss_the_last_saved_state_or_the_one_being_saved_is_there(
        saves in 1..6i64,
        power in 0..4u32,
    ) {
        let disk = MemoryDisk::default();
        let (mut files, _) = open(&disk);
        for revision in 1..=saves {
            files.save(&state(revision), "").unwrap();
        }
        disk.0.borrow_mut().power = Some(power);
        let saved = files.save(&state(saves + 1), "").is_ok();
        disk.crash();
        let (_, loaded) = open(&disk);
        prop_assert_eq!(&loaded.damage, &None);
        prop_assert_eq!(loaded.desired, state(if saved { saves + 1 } else { saves }));
    }

    #[test]
    fn one_damaged_file_is_told_and_the_other_one_used_without_its_version(
        slot in 0..2usize,
        at in any::<usize>(),
    ) {
        let disk = MemoryDisk::default();
        let (mut files, _) = open(&disk);
        files.save(&state(1), "uid").unwrap();
        files.save(&state(2), "uid").unwrap();
        disk.rot(SLOTS[slot], at);
        let (mut files, loaded) = open(&disk);
        prop_assert!(loaded.damage.is_some());
        prop_assert_eq!(loaded.desired.version, None);
        // Writing 1 went to the second file, writing 2 to the first.
        let left = if slot == 0 { state(1) } else { state(2) };
        prop_assert_eq!(loaded.desired.resources, left.resources);
        files.save(&state(3), "uid").unwrap();
        let (mut files, _) = open(&disk);
        files.save(&state(4), "uid").unwrap();
        prop_assert_eq!(open(&disk).1, Loaded { desired: state(4), node_uid: "uid".into(), ..Loaded::default() });
    }
}
