//! `projector dev`: the whole loop on this machine, with a page that shows it.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use clap::Args;
use futures::FutureExt as _;

use super::{
    Context, EXIT_OK,
    serve::{listen, stop_signal},
    stores, terminal,
};
use crate::{
    dev::{self, Access, Console},
    embedded::server,
};

/// Where to listen, and what to keep.
#[derive(Args)]
pub struct Options {
    /// The DynamoDB's port on 127.0.0.1, or 0 for a free one
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// The page's port, or 0 for a free one
    #[arg(long, value_name = "N", default_value_t = 8001)]
    page_port: u16,
    /// The page's address; whoever reaches it can read and write the data
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// The folder in which fixtures are saved
    #[arg(long, value_name = "DIR", default_value = "fixtures")]
    fixtures: PathBuf,
}

/// `dev`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let Options { port, page_port, listen: address, fixtures } = options;
    if cx.store.is_remote() {
        bail!("`dev` runs a DynamoDB inside this process: omit --aws and --endpoint-url, and name a file with --data to keep the data");
    }
    let embedded = stores::open_embedded(&cx.store, cx.registry).await?;
    // Before the addresses are printed, so that whoever reads them can stop this process cleanly.
    let stop = stop_signal().context("cannot wait for Ctrl-C")?.shared();
    let database = listen(Ipv4Addr::LOCALHOST.into(), *port, "--port").await?;
    let page = listen(*address, *page_port, "--page-port").await?;
    let database_url = format!("http://{}", database.local_addr()?);
    let page_url = format!("http://{}", page.local_addr()?);
    let access = Access::of(*address);
    if access == Access::Anybody {
        terminal::note("warning: whoever reaches the page can read and write the data, for it asks for no password");
    }
    let console = Console::new(dev::Options {
        embedded: embedded.clone(),
        names: stores::names(&cx.store, cx.registry)?,
        registry: cx.registry,
        next: cx.next,
        deciders: cx.deciders,
        calls: cx.calls.clone(),
        samples: cx.samples,
        fixtures: fixtures.clone(),
        database_url: database_url.clone(),
    })
    .await?;
    let kept = cx.store.data.as_ref().map_or_else(|| "in memory only".to_owned(), |path| format!("in {}", path.display()));
    cx.out.text(&format!(
        "\
open {page_url} in a browser; Ctrl-C stops it

The data is kept {kept}. Whatever writes to {database_url} feeds the page:

  projector --endpoint-url {database_url} command

  export AWS_ACCESS_KEY_ID=none AWS_SECRET_ACCESS_KEY=none AWS_REGION=us-east-1
  aws dynamodb list-tables --endpoint-url {database_url}
"
    ));
    let served = async { server::serve(database, embedded, stop.clone()).await.context("the DynamoDB failed") };
    let shown = async { Box::pin(console.run(page, access, stop.clone())).await.context("the console failed") };
    futures::try_join!(served, shown)?;
    terminal::note("stopped");
    Ok(EXIT_OK)
}
