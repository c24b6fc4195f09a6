//! What is known, step by step, without a driver.

use skerry_gpu_model::health::Reason;

use super::*;

fn device(uuid: &str) -> pb::Device {
    pb::Device { uuid: uuid.to_owned(), ..pb::Device::default() }
}

#[test]
fn errors_of_cards_that_are_here_are_remembered_before_those_of_cards_that_are_gone() {
    let latch = Latch { reason: Reason::XidHardware, code: 48, since: 1, until: None };
    let gone: BTreeMap<String, Vec<Latch>> =
        (0..DEVICES_MAX).map(|n| (format!("GPU-{n:02}"), vec![latch.clone()])).collect();
    let mut board = Board::new(Rules::default(), gone.clone(), Duration::from_secs(30));
    board.put_devices(vec![device("GPU-zz")], 0);
    assert_eq!(board.latches(), gone, "it is well");
    let xid = Event::Xid { code: 48, pid: 0, message: String::new(), instance: String::new() };
    board.happened("GPU-zz", &xid, 5);
    let kept = board.latches();
    assert_eq!((kept.len(), kept.contains_key("GPU-zz")), (DEVICES_MAX, true));
    // One that was gone and is here again counts as here.
    board.put_devices(vec![device("GPU-zz"), device("GPU-63")], 9);
    let kept = board.latches();
    assert!(kept.len() == DEVICES_MAX && kept.contains_key("GPU-zz") && kept.contains_key("GPU-63"));
}
