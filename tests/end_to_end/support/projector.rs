//! `projector` as an operator runs it: in its own process.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use aws_sdk_dynamodb::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Child,
    sync::watch,
};

/// Runs `projector`. Returns exit code, standard output and standard error.
pub async fn projector(arguments: &[&str]) -> (i32, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_projector"));
    let command = command.args(arguments).env_clear().env("RUST_LOG", "debug").stdin(Stdio::null());
    let output = command.output().await.expect("projector runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("it exits"), text(output.stdout), text(output.stderr))
}

/// The folder of a fixture.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Starts `projector` with its output piped. Dropping the value kills the process.
pub fn start_projector(arguments: &[&str]) -> Child {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_projector"));
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).spawn().expect("projector runs")
}

/// Interrupts the process, as Ctrl-C does.
pub fn interrupt(child: &Child) {
    let id = child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill runs").success());
}

/// Forwards connections to a database, and holds back every `UpdateItem` until it is opened.
pub struct Gate {
    /// The address to give the process as DynamoDB's endpoint.
    pub url: String,
    opener: watch::Sender<bool>,
    held: watch::Sender<usize>,
}

impl Gate {
    pub async fn new(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let gate = Self { url, opener: watch::Sender::new(false), held: watch::Sender::new(0) };
        let (opener, held) = (gate.opener.clone(), gate.held.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(upstream.trim_start_matches("http://")).await.expect("the database is served");
                let (mut open, held) = (opener.subscribe(), held.clone());
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
                tokio::spawn(async move {
                    let mut bytes = vec![0; 65_536];
                    while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
                        if bytes[..count].windows(11).any(|window| window == b".UpdateItem") {
                            held.send_modify(|held| *held += 1);
                            open.wait_for(|open| *open).await.expect("the gate is opened in the end");
                        }
                        to_server.write_all(&bytes[..count]).await.expect("the database is served");
                    }
                });
            }
        });
        gate
    }

    /// Waits until this number of calls are held back.
    pub async fn holds(&self, calls: usize) {
        self.held.subscribe().wait_for(|held| *held >= calls).await.expect("the gate exists");
    }

    /// Lets all calls through.
    pub fn open(&self) {
        self.opener.send_replace(true);
    }
}

/// A client of the DynamoDB that a `projector` serves.
pub fn client(url: &str) -> Client {
    let config = aws_sdk_dynamodb::Config::builder().behavior_version(BehaviorVersion::latest()).region(Region::new("us-east-1"));
    let config = config.credentials_provider(Credentials::new("none", "none", None, None, "test"));
    let http = aws_smithy_http_client::Builder::new().build_http();
    Client::from_conf(config.endpoint_url(url).http_client(http).build())
}
