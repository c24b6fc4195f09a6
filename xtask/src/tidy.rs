//! `cargo xtask tidy`: the rules that the compiler does not hold. What they are is in `walls` and `files`.

mod files;
mod walls;

use anyhow::{Result, bail};

use crate::sh;

pub(crate) fn run() -> Result<()> {
    let root = sh::root();
    let mut faults = walls::check(&root)?;
    faults.extend(files::check(&root)?);
    if !faults.is_empty() {
        faults.sort();
        bail!("{} faults:\n  {}", faults.len(), faults.join("\n  "));
    }
    println!("crate walls, file heads, sizes and manifests are in order");
    Ok(())
}
