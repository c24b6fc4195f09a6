//! TCP ports for programs that must be told theirs and cannot bind port 0.
//!
//! A port that was free a moment ago is no promise: the kernel hands the ports of its ephemeral range to any connection that goes out, on a busy
//! machine within the second between the look and the program's bind, or while a killed program is away. So these lie below that range, and a file
//! lock keeps two tests, of one process or of several, from the same one. Each process begins elsewhere: a Docker daemon that publishes a range
//! remembers which port of it it gave last, and gives the next one.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

/// The lowest port handed out: above what programs commonly listen on, Skerry's own defaults too.
const FIRST: u16 = 12_000;
/// The end of the range, where the kernel's ephemeral one begins as it comes (`ip_local_port_range`, ip(7)).
const END: u16 = 32_768;

/// How many places there are to begin at, and how far they are from one another: most processes take fewer.
const PLACES: u32 = 500;
const PLACE_PORTS: u16 = 40;

/// What this process holds until it ends: the locks, and where to look next.
struct Reserved {
    next: Option<u16>,
    locks: Vec<File>,
}

static RESERVED: Mutex<Reserved> = Mutex::new(Reserved { next: None, locks: Vec::new() });

/// A TCP port of 127.0.0.1 that is this process's until it ends. Where a program can bind port 0 itself, let it.
///
/// # Panics
/// When the machine has no port left, or nothing can be written where temporary files go.
#[must_use]
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of `count` neighbouring ports, each as [`free_port`] gives one.
///
/// # Panics
/// As [`free_port`], or when `count` is nought or more than there are.
#[must_use]
pub fn free_ports(count: u16) -> u16 {
    assert!((1..END - FIRST).contains(&count), "{count} ports are not to be had");
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let place = u16::try_from(std::process::id() % PLACES).expect("below 500");
    let start = reserved.next.unwrap_or(FIRST + place * PLACE_PORTS).min(END - count);
    for first in (start..=END - count).chain(FIRST..start) {
        if let Some(locks) = (first..first + count).map(reserve).collect::<Option<Vec<_>>>() {
            reserved.locks.extend(locks);
            reserved.next = Some(first + count);
            return first;
        }
    }
    panic!("no free ports are left between {FIRST} and {END}");
}

/// The lock of a port that nobody else has and nobody listens on.
fn reserve(port: u16) -> Option<File> {
    let directory = directory();
    fs::create_dir_all(&directory).expect("a directory for the locks of ports");
    let lock = File::options()
        .create(true)
        .append(true)
        .open(directory.join(port.to_string()))
        .expect("a port's lock opens");
    lock.try_lock().ok()?;
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()?;
    Some(lock)
}

fn directory() -> PathBuf {
    std::env::temp_dir().join("skerry-test-ports")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_port_is_handed_out_once_and_can_be_bound() {
        let threads: Vec<_> =
            (0..8).map(|_| std::thread::spawn(|| (0..8).map(|_| free_port()).collect::<Vec<_>>())).collect();
        let ports: Vec<u16> =
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
        let held: Vec<_> = ports
            .iter()
            .map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).expect("it is free"))
            .collect();
        assert_eq!(held.len(), 64);
    }

    #[test]
    fn neighbours_are_all_free() {
        let first = free_ports(3);
        for port in first..first + 3 {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("it is free");
        }
    }
}
