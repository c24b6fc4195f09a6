//! An OTLP collector on loopback that takes whatever it is sent: prints its endpoint and serves until it is killed.
//! `cargo xtask order` has the agent tell it.
#![allow(clippy::print_stdout, reason = "its endpoint is for whoever starts it")]

use skerry_integration::otlp::Collector;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    println!("{}", collector.endpoint());
    std::future::pending().await
}
