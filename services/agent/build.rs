//! Tells the linker in which order the shipped agent's functions lie (`hot.ld`); what is built for speed or for tests is left as it is.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=hot.ld");
    println!("cargo::rerun-if-env-changed=SKERRY_NO_LINK_ORDER");
    let is = |variable: &str, values: &[&str]| {
        env::var(variable).is_ok_and(|value| values.contains(&value.as_str()))
    };
    // The profile `edge`, whatever it is called: the one that is built for size.
    if is("OPT_LEVEL", &["s", "z"])
        && is("CARGO_CFG_TARGET_OS", &["linux"])
        && env::var_os("SKERRY_NO_LINK_ORDER").is_none()
    {
        let dir = env::var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
        println!("cargo::rustc-link-arg-bin=skerry-agent=-Wl,-T,{dir}/hot.ld");
    }
}
