//! Again, when somebody else was faster: how often, and how long between.

use std::time::Duration;

use skerry_model::Fault;

/// Tries of one change, while others change the same.
const TRIES: u32 = 8;
/// First wait between two tries; it doubles.
const WAIT: Duration = Duration::from_millis(5);

/// Counts the tries of one change and waits between them.
#[derive(Debug)]
pub struct Tries {
    left: u32,
    wait: Duration,
}

impl Default for Tries {
    fn default() -> Self {
        Self { left: TRIES, wait: WAIT }
    }
}

impl Tries {
    /// Waits before the next try; ABORTED after the last.
    pub async fn again(&mut self, what: &(impl std::fmt::Display + Sync)) -> Result<(), Fault> {
        self.left -= 1;
        if self.left == 0 {
            return Err(Fault::contended(what));
        }
        // Spread those who collide: between half and all of the wait.
        let part = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
        tokio::time::sleep(self.wait.mul_f64(0.5 + part / 2.0)).await;
        self.wait *= 2;
        Ok(())
    }
}
