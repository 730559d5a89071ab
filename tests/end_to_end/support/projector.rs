//! `projector` as an operator runs it: as a process of its own.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Exit code, output, error output.
pub async fn projector(arguments: &[&str]) -> (i32, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_projector"));
    let command = command.args(arguments).env_clear().env("RUST_LOG", "debug").stdin(Stdio::null());
    let output = command.output().await.expect("projector runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("it exits"), text(output.stdout), text(output.stderr))
}

/// An address that forwards to another, and holds every `UpdateItem` until it is opened.
pub async fn gate(upstream: String, open: watch::Receiver<bool>, held: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(upstream.trim_start_matches("http://")).await.expect("the database is served");
            let (mut open, held) = (open.clone(), held.clone());
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            tokio::spawn(async move {
                let mut bytes = vec![0; 65_536];
                while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
                    if bytes[..count].windows(11).any(|window| window == b".UpdateItem") {
                        held.fetch_add(1, Relaxed);
                        open.wait_for(|open| *open).await.expect("the test goes on");
                    }
                    to_server.write_all(&bytes[..count]).await.expect("the database is served");
                }
            });
        }
    });
    url
}
