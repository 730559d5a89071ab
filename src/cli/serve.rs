//! `projector serve`: the embedded DynamoDB over HTTP.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::net::TcpListener;

use super::{Context, EXIT_OK, stores, terminal};
use crate::embedded::server;

/// Where to serve.
#[derive(Args)]
pub struct Options {
    /// The port on 127.0.0.1, or 0 for a free one
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
}

/// `serve`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    if cx.store.is_remote() {
        bail!("`serve` serves a DynamoDB inside this process: omit --aws and --endpoint-url, and name a file with --data to keep the data");
    }
    let embedded = stores::open_embedded(&cx.store, cx.registry).await?;
    // Before the address is printed, so that whoever reads it can stop this process cleanly.
    let stop = stop_signal().context("cannot wait for Ctrl-C")?;
    let listener = listen(Ipv4Addr::LOCALHOST.into(), options.port, "--port").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let rule = cx.registry.projections().first().context("this program has no projections")?;
    let table = stores::table_of(&cx.store, cx.registry, *rule)?;
    let kept = cx.store.data.as_ref().map_or_else(|| "kept in memory only".to_owned(), |path| format!("kept in {}", path.display()));
    cx.out.text(&format!(
        "\
serving a DynamoDB at {url}, {kept}; Ctrl-C stops it

  projector --endpoint-url {url} status

  export AWS_ACCESS_KEY_ID=none AWS_SECRET_ACCESS_KEY=none AWS_REGION=us-east-1
  aws dynamodb scan --endpoint-url {url} --table-name {table}
"
    ));
    server::serve(listener, embedded, stop).await.context("the HTTP server failed")?;
    terminal::note("stopped");
    Ok(EXIT_OK)
}

/// Listens on a port, which `option` names.
pub async fn listen(address: IpAddr, port: u16, option: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind((address, port)).await;
    listener.with_context(|| format!("cannot listen on {address}:{port}: choose another {option}, or 0 for a free one"))
}

/// Resolves when the process is told to end.
#[cfg(unix)]
pub fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Resolves when the process is told to end.
#[cfg(not(unix))]
pub fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async {
        // On a system without signals, none arrives.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
