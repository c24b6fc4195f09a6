//! Has the shipped program linked small.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    skerry_linking::pack_relocations("skerry-gpu");
}
