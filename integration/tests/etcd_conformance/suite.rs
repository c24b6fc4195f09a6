//! The laws, one function each, run against both stores.

use std::time::Duration;

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions,
    LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    WatchFilterType, WatchOptions, WatchStream,
};

use crate::Store;

/// How long a watch may take to say something.
const PATIENCE: Duration = Duration::from_secs(15);

macro_rules! laws {
    ($($law:ident),* $(,)?) => {
        mod real {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $law() {
                let store = super::Store::real().await;
                super::$law(store.client().await).await;
            })*
        }
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $law() {
                let store = super::Store::embedded().await;
                super::$law(store.client().await).await;
            })*
        }
    };
}

laws! {
    ranges_are_one_key_or_from_to_or_from_on_or_a_prefix,
    ranges_are_cut_sorted_filtered_counted,
    the_past_can_be_read_until_it_is_compacted,
    puts_count_versions_and_keep_what_they_are_told_to_keep,
    deletes_say_what_they_deleted,
    a_transaction_is_one_revision_and_takes_one_branch,
    transactions_compare_every_field_and_whole_ranges,
    what_etcd_refuses_is_refused_in_its_words,
    a_watch_replays_the_past_and_goes_on,
    many_watches_share_a_stream_and_end_one_by_one,
    a_watch_filters_and_shows_previous_values,
    a_watch_below_the_compaction_is_cancelled_with_its_revision,
    a_watch_from_the_future_waits_for_it,
    a_watch_says_how_far_it_is,
    one_transaction_is_one_watch_response,
    leases_hold_keys_and_take_them_along,
    a_lease_that_is_kept_alive_lives,
    leases_that_do_not_exist_say_so,
    the_header_names_the_store_and_its_revision,
    a_large_value_comes_back_and_a_larger_one_is_refused,
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> (i32, String) {
    match result {
        Err(Error::GRpcStatus(status)) => (status.code() as i32, status.message().to_owned()),
        other => panic!("not refused: {other:?}"),
    }
}

const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;

async fn keys(client: &mut Client, key: &str, options: GetOptions) -> Vec<String> {
    let found = client.get(key, Some(options)).await.unwrap();
    found.kvs().iter().map(|kv| kv.key_str().unwrap().to_owned()).collect()
}

async fn fill(client: &mut Client, names: &[&str]) {
    for name in names {
        client.put(*name, format!("value of {name}"), None).await.unwrap();
    }
}

/// The next response with events in it, as (is a delete, key, value, mod revision).
async fn events(watch: &mut WatchStream) -> Vec<(bool, String, String, i64)> {
    loop {
        let response = tokio::time::timeout(PATIENCE, watch.message()).await.expect("no event came");
        let response = response.unwrap().expect("the watch ended");
        assert!(!response.canceled(), "{}", response.cancel_reason());
        if response.events().is_empty() {
            continue;
        }
        let event = |event: &etcd_client::Event| {
            let kv = event.kv().unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (event.event_type() == EventType::Delete, text(kv.key()), text(kv.value()), kv.mod_revision())
        };
        return response.events().iter().map(event).collect();
    }
}

async fn collect(watch: &mut WatchStream, count: usize) -> Vec<(bool, String, String, i64)> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(events(watch).await);
    }
    all
}

async fn ranges_are_one_key_or_from_to_or_from_on_or_a_prefix(mut client: Client) {
    fill(&mut client, &["a", "b", "b/1", "b/2", "c"]).await;
    let get = GetOptions::new;
    assert_eq!(keys(&mut client, "b", get()).await, ["b"]);
    assert_eq!(keys(&mut client, "x", get()).await, [""; 0]);
    assert_eq!(keys(&mut client, "b", get().with_range("c")).await, ["b", "b/1", "b/2"]);
    assert_eq!(keys(&mut client, "b", get().with_range("a")).await, [""; 0]);
    assert_eq!(keys(&mut client, "b", get().with_range("b")).await, [""; 0]);
    assert_eq!(keys(&mut client, "b/2", get().with_from_key()).await, ["b/2", "c"]);
    assert_eq!(keys(&mut client, "b/", get().with_prefix()).await, ["b/1", "b/2"]);
    assert_eq!(keys(&mut client, "", get().with_all_keys()).await.len(), 5);
}

async fn ranges_are_cut_sorted_filtered_counted(mut client: Client) {
    fill(&mut client, &["k/a", "k/b", "k/c", "k/b"]).await;
    let get = || GetOptions::new().with_prefix();
    let cut = client.get("k/", Some(get().with_limit(2))).await.unwrap();
    assert_eq!((cut.kvs().len(), cut.more(), cut.count()), (2, true, 3));
    let whole = client.get("k/", Some(get().with_limit(3))).await.unwrap();
    assert_eq!((whole.kvs().len(), whole.more(), whole.count()), (3, false, 3));
    let counted = client.get("k/", Some(get().with_count_only())).await.unwrap();
    assert_eq!((counted.kvs().len(), counted.count()), (0, 3));
    let bare = client.get("k/a", Some(GetOptions::new().with_keys_only())).await.unwrap();
    assert_eq!(
        (bare.kvs()[0].key(), bare.kvs()[0].value(), bare.kvs()[0].version()),
        (&b"k/a"[..], &b""[..], 1)
    );

    let sorted = |target, order| get().with_sort(target, order);
    assert_eq!(
        keys(&mut client, "k/", sorted(SortTarget::Key, SortOrder::Descend)).await,
        ["k/c", "k/b", "k/a"]
    );
    assert_eq!(
        keys(&mut client, "k/", sorted(SortTarget::Mod, SortOrder::Ascend)).await,
        ["k/a", "k/c", "k/b"]
    );
    assert_eq!(
        keys(&mut client, "k/", sorted(SortTarget::Version, SortOrder::Descend)).await,
        ["k/b", "k/a", "k/c"]
    );
    assert_eq!(
        keys(&mut client, "k/", sorted(SortTarget::Create, SortOrder::Descend)).await,
        ["k/c", "k/b", "k/a"]
    );
    let last = sorted(SortTarget::Value, SortOrder::Descend).with_limit(1);
    assert_eq!(keys(&mut client, "k/", last).await, ["k/c"]);

    assert_eq!(keys(&mut client, "k/", get().with_min_mod_revision(4)).await, ["k/b", "k/c"]);
    assert_eq!(keys(&mut client, "k/", get().with_max_mod_revision(4)).await, ["k/a", "k/c"]);
    assert_eq!(keys(&mut client, "k/", get().with_min_create_revision(3)).await, ["k/b", "k/c"]);
    assert_eq!(keys(&mut client, "k/", get().with_max_create_revision(3)).await, ["k/a", "k/b"]);
}

async fn the_past_can_be_read_until_it_is_compacted(mut client: Client) {
    for value in ["1", "2", "3"] {
        client.put("a", value, None).await.unwrap();
    }
    client.delete("a", None).await.unwrap();
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    for (revision, value) in [(2, "1"), (3, "2"), (4, "3")] {
        let found = client.get("a", at(revision)).await.unwrap();
        assert_eq!(found.kvs()[0].value_str().unwrap(), value);
        assert_eq!(found.header().unwrap().revision(), 5);
    }
    assert_eq!(client.get("a", at(5)).await.unwrap().count(), 0);
    let future = (OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision".to_owned());
    assert_eq!(refusal(client.get("a", at(6)).await), future);
    assert_eq!(refusal(client.compact(6, None).await), future);

    let compacted = (OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted".to_owned());
    client.compact(3, Some(CompactionOptions::new().with_physical())).await.unwrap();
    assert_eq!(refusal(client.get("a", at(2)).await), compacted);
    assert_eq!(client.get("a", at(3)).await.unwrap().kvs()[0].value(), b"2");
    assert_eq!(refusal(client.compact(3, None).await), compacted);
    assert_eq!(refusal(client.compact(1, None).await), compacted);
    client.compact(5, None).await.unwrap();
    assert_eq!(refusal(client.get("a", at(4)).await), compacted);
    assert_eq!(client.get("a", None).await.unwrap().count(), 0);
}

async fn puts_count_versions_and_keep_what_they_are_told_to_keep(mut client: Client) {
    let lease = client.lease_grant(1000, None).await.unwrap().id();
    let first =
        client.put("a", "1", Some(PutOptions::new().with_lease(lease).with_prev_key())).await.unwrap();
    assert!(first.header().unwrap().revision() == 2 && first.prev_key().is_none(), "{first:?}");
    let ignore_value = PutOptions::new().with_ignore_value().with_prev_key();
    let second = client.put("a", "", Some(ignore_value.clone())).await.unwrap();
    let prev = second.prev_key().unwrap();
    assert_eq!((prev.value(), prev.lease(), prev.version()), (&b"1"[..], lease, 1));
    let now = client.get("a", None).await.unwrap();
    let kv = &now.kvs()[0];
    assert_eq!((kv.value(), kv.lease(), kv.version()), (&b"1"[..], 0, 2));
    assert_eq!((kv.create_revision(), kv.mod_revision()), (2, 3));

    client.put("a", "2", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    client.put("a", "3", Some(PutOptions::new().with_ignore_lease())).await.unwrap();
    let now = client.get("a", None).await.unwrap();
    assert_eq!((now.kvs()[0].value(), now.kvs()[0].lease()), (&b"3"[..], lease));

    client.delete("a", None).await.unwrap();
    client.put("a", "4", None).await.unwrap();
    let again = client.get("a", None).await.unwrap();
    assert_eq!((again.kvs()[0].version(), again.kvs()[0].create_revision()), (1, 7));
}

async fn deletes_say_what_they_deleted(mut client: Client) {
    fill(&mut client, &["a", "b/1", "b/2", "c"]).await;
    let none = client.delete("x", None).await.unwrap();
    assert_eq!((none.deleted(), none.header().unwrap().revision()), (0, 5));
    let some = client.delete("b/", Some(DeleteOptions::new().with_prefix().with_prev_key())).await.unwrap();
    assert_eq!((some.deleted(), some.header().unwrap().revision()), (2, 6));
    let prev: Vec<_> = some.prev_kvs().iter().map(|kv| (kv.key(), kv.value())).collect();
    assert_eq!(prev, [(&b"b/1"[..], &b"value of b/1"[..]), (b"b/2", b"value of b/2")]);
    assert_eq!(client.delete("b", Some(DeleteOptions::new().with_from_key())).await.unwrap().deleted(), 1);
    assert_eq!(keys(&mut client, "", GetOptions::new().with_all_keys()).await, ["a"]);
}

async fn a_transaction_is_one_revision_and_takes_one_branch(mut client: Client) {
    let create = || {
        Txn::new()
            .when([Compare::version("a", CompareOp::Equal, 0)])
            .and_then([
                TxnOp::put("a", "1", None),
                TxnOp::put("b", "1", None),
                TxnOp::get("a", Some(GetOptions::new().with_from_key())),
                TxnOp::txn(Txn::new().and_then([TxnOp::put("c", "1", None)])),
            ])
            .or_else([TxnOp::get("a", None), TxnOp::delete("b", None)])
    };
    let done = client.txn(create()).await.unwrap();
    assert!(done.succeeded());
    assert_eq!(done.header().unwrap().revision(), 2);
    let answers = done.op_responses();
    let [TxnOpResponse::Put(put), _, TxnOpResponse::Get(get), TxnOpResponse::Txn(within)] = &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!(put.header().unwrap().revision(), 2);
    assert_eq!(get.kvs().len(), 2, "what was put before is read");
    assert!(within.succeeded());
    for key in ["a", "b", "c"] {
        assert_eq!(client.get(key, None).await.unwrap().kvs()[0].mod_revision(), 2);
    }
    let refused = client.txn(create()).await.unwrap();
    assert!(!refused.succeeded());
    assert_eq!(refused.header().unwrap().revision(), 3);
    assert_eq!(client.get("b", None).await.unwrap().count(), 0);
    let read = client.txn(Txn::new().and_then([TxnOp::get("a", None)])).await.unwrap();
    assert_eq!(read.header().unwrap().revision(), 3, "reading is no revision");
}

async fn transactions_compare_every_field_and_whole_ranges(mut client: Client) {
    use CompareOp::{Equal, Greater, Less, NotEqual};
    let lease = client.lease_grant(1000, None).await.unwrap().id();
    client.put("k/1", "b", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    client.put("k/2", "b", None).await.unwrap();
    client.put("k/2", "b", None).await.unwrap();
    let cases = [
        (Compare::version("k/2", Equal, 2), true),
        (Compare::version("k/2", Less, 2), false),
        (Compare::create_revision("k/2", Equal, 3), true),
        (Compare::create_revision("k/2", Greater, 2), true),
        (Compare::mod_revision("k/2", Equal, 4), true),
        (Compare::mod_revision("k/2", NotEqual, 4), false),
        (Compare::value("k/1", Equal, "b"), true),
        (Compare::value("k/1", Less, "c"), true),
        (Compare::value("k/1", Greater, "b"), false),
        (Compare::value("none", NotEqual, "b"), false),
        (Compare::value("none", Equal, ""), false),
        (Compare::version("none", Equal, 0), true),
        (Compare::lease("k/1", Equal, lease), true),
        (Compare::lease("k/2", Equal, 0), true),
        (Compare::value("k/", Equal, "b").with_prefix(), true),
        (Compare::version("k/", Equal, 2).with_prefix(), false),
        (Compare::version("k/", Greater, 0).with_range("k/9"), true),
        (Compare::version("x", Greater, 0).with_prefix(), false),
        (Compare::mod_revision("x", Equal, 0).with_prefix(), true),
    ];
    for (compare, holds) in cases {
        let text = format!("{compare:?}");
        assert_eq!(client.txn(Txn::new().when([compare])).await.unwrap().succeeded(), holds, "{text}");
    }
}

async fn what_etcd_refuses_is_refused_in_its_words(mut client: Client) {
    let invalid = |text: &str| (INVALID_ARGUMENT, format!("etcdserver: {text}"));
    assert_eq!(refusal(client.put("", "", None).await), invalid("key is not provided"));
    assert_eq!(refusal(client.get("", None).await), invalid("key is not provided"));
    assert_eq!(refusal(client.delete("", None).await), invalid("key is not provided"));
    let keep_value = PutOptions::new().with_ignore_value();
    assert_eq!(refusal(client.put("a", "", Some(keep_value.clone())).await), invalid("key not found"));
    assert_eq!(refusal(client.put("a", "v", Some(keep_value)).await), invalid("value is provided"));
    let keep_lease = PutOptions::new().with_ignore_lease();
    assert_eq!(refusal(client.put("a", "", Some(keep_lease.clone())).await), invalid("key not found"));
    let both = keep_lease.with_lease(5);
    assert_eq!(refusal(client.put("a", "", Some(both)).await), invalid("lease is provided"));
    let no_lease = (NOT_FOUND, "etcdserver: requested lease not found".to_owned());
    assert_eq!(refusal(client.put("a", "", Some(PutOptions::new().with_lease(5))).await), no_lease);
    // Neither the lease nor the key exists: a lone put says the one, a transaction the other.
    let neither = PutOptions::new().with_ignore_value().with_lease(5);
    assert_eq!(refusal(client.put("a", "", Some(neither.clone())).await), no_lease);
    let txn = Txn::new().and_then([TxnOp::put("a", "", Some(neither))]);
    assert_eq!(refusal(client.txn(txn).await), invalid("key not found"));

    let put = |key: &str| TxnOp::put(key, "", None);
    let then = |ops: Vec<TxnOp>| Txn::new().and_then(ops);
    let twice = invalid("duplicate key given in txn request");
    assert_eq!(refusal(client.txn(then(vec![put("a"), put("a")])).await), twice);
    let prefix = || TxnOp::delete("a", Some(DeleteOptions::new().with_prefix()));
    assert_eq!(refusal(client.txn(then(vec![put("ab"), prefix()])).await), twice);
    let within = || TxnOp::txn(then(vec![put("a")]));
    assert_eq!(refusal(client.txn(then(vec![within(), put("a")])).await), twice);
    client.txn(then(vec![TxnOp::txn(then(vec![put("a")]).or_else([put("a")]))])).await.unwrap();
    let many = |count: usize| then((0..count).map(|at| put(&at.to_string())).collect());
    client.txn(many(128)).await.unwrap();
    assert_eq!(refusal(client.txn(many(129)).await), invalid("too many operations in txn request"));
    assert_eq!(refusal(client.txn(then(vec![put("")])).await), invalid("key is not provided"));
    let leased = TxnOp::put("z", "", Some(PutOptions::new().with_lease(5)));
    assert_eq!(refusal(client.txn(then(vec![put("y"), leased])).await), no_lease);
    assert_eq!(client.get("y", None).await.unwrap().count(), 0, "refused whole");
}

async fn a_watch_replays_the_past_and_goes_on(mut client: Client) {
    fill(&mut client, &["w/a", "other", "w/b"]).await;
    client.delete("w/a", None).await.unwrap();
    let from = |revision| Some(WatchOptions::new().with_prefix().with_start_revision(revision));
    let mut watch = client.watch("w/", from(2)).await.unwrap();
    let past = collect(&mut watch, 3).await;
    let expected = [
        (false, "w/a".to_owned(), "value of w/a".to_owned(), 2),
        (false, "w/b".to_owned(), "value of w/b".to_owned(), 4),
        (true, "w/a".to_owned(), String::new(), 5),
    ];
    assert_eq!(past, expected);
    client.put("w/c", "now", None).await.unwrap();
    assert_eq!(events(&mut watch).await, [(false, "w/c".to_owned(), "now".to_owned(), 6)]);
    let mut later = client.watch("w/", from(5)).await.unwrap();
    assert_eq!(collect(&mut later, 2).await[0].3, 5);
}

async fn many_watches_share_a_stream_and_end_one_by_one(mut client: Client) {
    let mut watch = client.watch("a", Some(WatchOptions::new().with_watch_id(7))).await.unwrap();
    let created = watch.message().await.unwrap().unwrap();
    assert_eq!((created.created(), created.watch_id()), (true, 7));
    watch.watch("b", Some(WatchOptions::new().with_watch_id(8))).await.unwrap();
    assert_eq!(watch.message().await.unwrap().unwrap().watch_id(), 8);
    watch.watch("b", Some(WatchOptions::new().with_watch_id(8))).await.unwrap();
    let again = watch.message().await.unwrap().unwrap();
    assert!(again.created() && again.canceled());
    assert_eq!(again.cancel_reason(), "mvcc: duplicate watch ID provided on the WatchStream");
    watch.watch("b", Some(WatchOptions::new().with_range("a"))).await.unwrap();
    let empty = watch.message().await.unwrap().unwrap();
    assert!(empty.created() && empty.canceled() && empty.watch_id() == -1);

    client.put("b", "1", None).await.unwrap();
    let event = watch.message().await.unwrap().unwrap();
    assert_eq!((event.watch_id(), event.events().len()), (8, 1));
    watch.cancel(8).await.unwrap();
    let canceled = watch.message().await.unwrap().unwrap();
    assert_eq!((canceled.watch_id(), canceled.canceled(), canceled.compact_revision()), (8, true, 0));
    client.put("b", "2", None).await.unwrap();
    client.put("a", "2", None).await.unwrap();
    let event = watch.message().await.unwrap().unwrap();
    assert_eq!((event.watch_id(), event.events().len()), (7, 1));
}

async fn a_watch_filters_and_shows_previous_values(mut client: Client) {
    fill(&mut client, &["a"]).await;
    let options = || WatchOptions::new().with_prev_key();
    let mut deletes =
        client.watch("a", Some(options().with_filters([WatchFilterType::NoPut]))).await.unwrap();
    let mut puts =
        client.watch("a", Some(options().with_filters([WatchFilterType::NoDelete]))).await.unwrap();
    let _created = (deletes.message().await.unwrap(), puts.message().await.unwrap());
    client.put("a", "second", None).await.unwrap();
    client.delete("a", None).await.unwrap();
    client.put("a", "third", None).await.unwrap();

    let only = deletes.message().await.unwrap().unwrap();
    assert_eq!(only.events()[0].event_type(), EventType::Delete);
    assert_eq!(only.events()[0].prev_kv().unwrap().value(), b"second");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let response = puts.message().await.unwrap().unwrap();
        for event in response.events() {
            seen.push((event.kv().unwrap().value().to_vec(), event.prev_kv().map(|kv| kv.value().to_vec())));
        }
    }
    let expected = [(b"second".to_vec(), Some(b"value of a".to_vec())), (b"third".to_vec(), None)];
    assert_eq!(seen, expected);
}

async fn a_watch_below_the_compaction_is_cancelled_with_its_revision(mut client: Client) {
    fill(&mut client, &["a", "b", "c", "d"]).await;
    client.compact(4, None).await.unwrap();
    let mut watch = client.watch("a", Some(WatchOptions::new().with_start_revision(3))).await.unwrap();
    let mut response = watch.message().await.unwrap().unwrap();
    if response.created() && !response.canceled() {
        response = tokio::time::timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
    }
    assert_eq!((response.canceled(), response.compact_revision()), (true, 4));
    let mut at =
        client.watch("a", Some(WatchOptions::new().with_from_key().with_start_revision(4))).await.unwrap();
    assert_eq!(collect(&mut at, 2).await[0].3, 4);
}

async fn a_watch_from_the_future_waits_for_it(mut client: Client) {
    let mut watch = client.watch("a", Some(WatchOptions::new().with_start_revision(4))).await.unwrap();
    let _created = watch.message().await.unwrap();
    for value in ["2", "3", "4"] {
        client.put("a", value, None).await.unwrap();
    }
    assert_eq!(events(&mut watch).await, [(false, "a".to_owned(), "4".to_owned(), 4)]);
}

async fn a_watch_says_how_far_it_is(mut client: Client) {
    let mut watch = client.watch("a", None).await.unwrap();
    let _created = watch.message().await.unwrap();
    client.put("unrelated", "", None).await.unwrap();
    // Asked again until it is there: a store may be about to look.
    let asked = async {
        loop {
            watch.request_progress().await.unwrap();
            let response = watch.message().await.unwrap().unwrap();
            assert!(response.events().is_empty() && !response.canceled());
            if response.header().unwrap().revision() == 2 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
}

async fn one_transaction_is_one_watch_response(mut client: Client) {
    let mut watch = client.watch("t/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    let _created = watch.message().await.unwrap();
    let ops: Vec<_> = (0..100).map(|at| TxnOp::put(format!("t/{at:03}"), vec![0; 8 << 10], None)).collect();
    client.txn(Txn::new().and_then(ops)).await.unwrap();
    let seen = events(&mut watch).await;
    assert_eq!(seen.len(), 100);
    assert!(seen.iter().all(|event| event.3 == 2));
}

async fn leases_hold_keys_and_take_them_along(mut client: Client) {
    let lease = client.lease_grant(1000, Some(LeaseGrantOptions::new().with_id(77))).await.unwrap();
    assert_eq!((lease.id(), lease.ttl()), (77, 1000));
    let held = || Some(PutOptions::new().with_lease(77));
    for key in ["a", "b", "c"] {
        client.put(key, "", held()).await.unwrap();
    }
    client.put("c", "", None).await.unwrap();
    let with_keys = Some(LeaseTimeToLiveOptions::new().with_keys());
    let left = client.lease_time_to_live(77, with_keys).await.unwrap();
    let mut keys = left.keys().to_vec();
    keys.sort();
    assert_eq!(keys, [b"a", b"b"]);
    assert_eq!(left.granted_ttl(), 1000);
    assert!((990..=1000).contains(&left.ttl()), "{}", left.ttl());
    assert_eq!(client.leases().await.unwrap().leases()[0].id(), 77);

    let mut watch = client.watch("a", Some(WatchOptions::new().with_from_key())).await.unwrap();
    let _created = watch.message().await.unwrap();
    client.lease_revoke(77).await.unwrap();
    let gone = events(&mut watch).await;
    assert_eq!(gone, [(true, "a".to_owned(), String::new(), 6), (true, "b".to_owned(), String::new(), 6)]);
    assert_eq!(client.get("c", None).await.unwrap().count(), 1);
}

async fn a_lease_that_is_kept_alive_lives(mut client: Client) {
    let kept = client.lease_grant(3, None).await.unwrap().id();
    let left = client.lease_grant(3, None).await.unwrap().id();
    client.put("kept", "", Some(PutOptions::new().with_lease(kept))).await.unwrap();
    client.put("left", "", Some(PutOptions::new().with_lease(left))).await.unwrap();
    let (mut keeper, mut answers) = client.lease_keep_alive(kept).await.unwrap();
    let mut watch = client.watch("left", None).await.unwrap();
    let ended = async {
        loop {
            keeper.keep_alive().await.unwrap();
            assert_eq!(answers.message().await.unwrap().unwrap().ttl(), 3);
            let waited = tokio::time::timeout(Duration::from_millis(500), watch.message()).await;
            if let Ok(Ok(Some(response))) = waited
                && !response.events().is_empty()
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(client.get("kept", None).await.unwrap().count(), 1);
    assert_eq!(client.get("left", None).await.unwrap().count(), 0);
}

async fn leases_that_do_not_exist_say_so(mut client: Client) {
    let none = (NOT_FOUND, "etcdserver: requested lease not found".to_owned());
    assert_eq!(refusal(client.lease_revoke(5).await), none);
    assert_eq!(client.lease_time_to_live(5, None).await.unwrap().ttl(), -1);
    let again = || Some(LeaseGrantOptions::new().with_id(9));
    client.lease_grant(100, again()).await.unwrap();
    let exists = (FAILED_PRECONDITION, "etcdserver: lease already exists".to_owned());
    assert_eq!(refusal(client.lease_grant(100, again()).await), exists);
    let large = (OUT_OF_RANGE, "etcdserver: too large lease TTL".to_owned());
    assert_eq!(refusal(client.lease_grant(9_000_000_001, None).await), large);
    assert!(
        client.lease_keep_alive(5).await.is_err() || {
            let (mut keeper, mut answers) = client.lease_keep_alive(5).await.unwrap();
            keeper.keep_alive().await.unwrap();
            answers.message().await.unwrap().unwrap().ttl() == 0
        }
    );
}

async fn the_header_names_the_store_and_its_revision(mut client: Client) {
    let put = client.put("a", "", None).await.unwrap();
    let (cluster, member) = (put.header().unwrap().cluster_id(), put.header().unwrap().member_id());
    assert!(cluster != 0 && member != 0 && put.header().unwrap().raft_term() > 0);
    let get = client.get("x", None).await.unwrap();
    let header = get.header().unwrap();
    assert_eq!((header.cluster_id(), header.member_id(), header.revision()), (cluster, member, 2));
    let members = client.member_list().await.unwrap();
    assert_eq!(members.members().iter().map(etcd_client::Member::id).collect::<Vec<_>>(), [member]);
    let status = client.status().await.unwrap();
    assert_eq!(status.leader(), member);
    assert!(status.version().starts_with("3."));
    assert!(status.db_size() > 0 && status.raft_index() > 0);
    client.defragment().await.unwrap();
    assert_eq!(client.get("a", None).await.unwrap().count(), 1);
}

async fn a_large_value_comes_back_and_a_larger_one_is_refused(mut client: Client) {
    let value: Vec<u8> = (0..1_400_000_u32).map(|at| (at % 251) as u8).collect();
    client.put("large", value.clone(), None).await.unwrap();
    assert_eq!(client.get("large", None).await.unwrap().kvs()[0].value(), value);
    let refused = refusal(client.put("large", vec![0; 1_600_000], None).await);
    assert_eq!(refused, (INVALID_ARGUMENT, "etcdserver: request is too large".to_owned()));
}
