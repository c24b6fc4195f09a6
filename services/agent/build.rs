//! Tells the linker how the shipped agent is laid out, so that little of it is mapped; what is built for speed or for tests is left as it
//! is. See docs/adr/0009-link-order.md.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=hot.ld");
    println!("cargo::rerun-if-env-changed=SKERRY_NO_LINK_ORDER");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|have| have == value);
    // The profile `edge`, whatever it is called: the one that builds this for nothing but size. Thousands of patterns cost the linker minutes
    // where code is not one piece.
    if is("OPT_LEVEL", "z")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && env::var_os("SKERRY_NO_LINK_ORDER").is_none()
    {
        let dir = env::var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
        println!("cargo::rustc-link-arg-bin=skerry-agent=-Wl,-T,{dir}/hot.ld");
    }
    skerry_linking::pack_relocations("skerry-agent");
}
