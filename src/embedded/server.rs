//! The embedded database over HTTP, for SDKs, the AWS CLI and tools on this machine.
//!
//! Not the emulator's own server: that one lets every web page that is open in a browser read and write the database (it answers with
//! `access-control-allow-origin: *`), and never deletes expired items.

use std::{future::Future, io, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::FutureExt as _;
use tokio::net::TcpListener;

use super::{
    Embedded,
    operations::{self, Tokens},
};

/// The largest request that DynamoDB takes: 16 MB, of a `BatchWriteItem`
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html>).
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// How often expired items are deleted. DynamoDB promises a few days.
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// How long requests in progress may take after the server was told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Names under which a program on this machine reaches it. A web page that had its own name resolved to the loopback address (DNS
/// rebinding) sends that name.
const HOSTS: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// Serves a database on a listener until `stop` resolves.
///
/// Requests that a browser would send for a web page are refused: those under another host name, and by the lack of CORS headers all
/// those with DynamoDB's own header, without which nothing is answered.
///
/// # Errors
/// The listener failed.
pub async fn serve(listener: TcpListener, embedded: Embedded, stop: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let stop = stop.shared();
    let sweep = sweep(embedded.clone());
    let router = Router::new().fallback(answer).layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX)).with_state(embedded);
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone()).into_future();
    let late = async {
        stop.await;
        tokio::time::sleep(STOP_WITHIN).await;
    };
    tokio::select! {
        ended = server => ended,
        () = late => Ok(()),
        () = sweep => unreachable!("it never ends"),
    }
}

async fn sweep(embedded: Embedded) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = embedded.database().sweep_ttl() {
            tracing::warn!("expired items were not deleted: {error}");
        }
    }
}

async fn answer(State(embedded): State<Embedded>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !is_local(text("host")) {
        return (StatusCode::FORBIDDEN, "this DynamoDB answers to 127.0.0.1 and localhost only\n").into_response();
    }
    // `DynamoDB_20120810.PutItem`, or `DynamoDBStreams_20120810.GetRecords`.
    let Some((_, operation)) = text("x-amz-target").rsplit_once('.') else {
        return (StatusCode::NOT_FOUND, "this is a DynamoDB: use an AWS SDK or the AWS CLI with this address as its endpoint\n")
            .into_response();
    };
    // Inline, although it blocks: it takes tens of microseconds.
    let (status, json) = operations::answer(embedded.database(), operation, &body, Tokens::Honoured);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/x-amz-json-1.0")], json).into_response()
}

/// Whether a `Host` header, with or without a port, names this machine from within.
fn is_local(host: &str) -> bool {
    HOSTS.iter().any(|name| host.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')))
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_names_of_the_loopback_are_local() {
        for host in ["127.0.0.1:8000", "localhost:8000", "localhost", "[::1]:8000"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["", "example.com:8000", "localhost.example.com", "127.0.0.1.example.com:8000", "192.168.0.2:8000"] {
            assert!(!is_local(host), "{host}");
        }
    }
}
