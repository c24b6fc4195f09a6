//! The task that keeps a service's hubs in step with its mirror.

use skerry_store::{Cursor, Mirror};

/// Calls `take` for all that the mirror shows, at first and whenever there is more, until `ending` or the mirror ends. It is given where it
/// left off, and answers where to continue.
pub async fn follow(
    mirror: &Mirror,
    ending: impl Future<Output = ()>,
    mut take: impl FnMut(Option<Cursor>) -> Cursor,
) {
    let mut wake = mirror.subscribe();
    let mut cursor = None;
    let mut ending = std::pin::pin!(ending);
    loop {
        cursor = Some(take(cursor));
        tokio::select! {
            more = wake.changed() => if !more { return },
            () = &mut ending => return,
        }
    }
}
