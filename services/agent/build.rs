//! Tells the linker how the shipped agent is laid out, so that little of it is mapped; what is built for speed or for tests is left as it
//! is. See docs/adr/0009-link-order.md.

use std::env;
use std::process::Command;

/// The first glibc whose loader reads packed relocations.
const PACKED_RELOCATIONS_GLIBC: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=hot.ld");
    println!("cargo::rerun-if-env-changed=SKERRY_NO_LINK_ORDER");
    let is = |variable: &str, values: &[&str]| {
        env::var(variable).is_ok_and(|value| values.contains(&value.as_str()))
    };
    // The profile `edge`, whatever it is called: the one that is built for nothing but size. Thousands of patterns cost the linker minutes
    // where code is not one piece.
    if is("OPT_LEVEL", &["z"])
        && is("CARGO_CFG_TARGET_OS", &["linux"])
        && env::var_os("SKERRY_NO_LINK_ORDER").is_none()
    {
        let dir = env::var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
        println!("cargo::rustc-link-arg-bin=skerry-agent=-Wl,-T,{dir}/hot.ld");
        // Where the build is for another machine, its loader is not known.
        if env::var("HOST") == env::var("TARGET")
            && glibc().is_some_and(|version| version >= PACKED_RELOCATIONS_GLIBC)
        {
            println!("cargo::rustc-link-arg-bin=skerry-agent=-Wl,-z,pack-relative-relocs");
        }
    }
}

/// The version of this machine's glibc, if it has one and says so: `glibc 2.36`.
fn glibc() -> Option<(u32, u32)> {
    let answer = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(answer.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
