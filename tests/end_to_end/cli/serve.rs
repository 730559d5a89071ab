//! `projector serve`: a data file through the real SDK, over HTTP.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use aws_sdk_dynamodb::types::AttributeValue;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::Child,
};

use crate::support::projector::{client, fixture, projector, start_projector};

/// A started server, and its address.
pub async fn serve(data: &str) -> (Child, String) {
    let mut child = start_projector(&["--data", data, "serve", "--port", "0"]);
    let mut line = String::new();
    // The rest of the output stays in the pipe, which takes it.
    let mut out = BufReader::new(child.stdout.as_mut().expect("a pipe"));
    out.read_line(&mut line).await.expect("read");
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).expect("an address").trim_end_matches(',');
    (child, url.to_owned())
}

/// Tells it to end, and waits until it has.
pub async fn stop(mut child: Child, signal: &str) {
    let id = child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).await.expect("read");
    assert_eq!(child.wait().await.expect("it ends").code(), Some(0), "{said}");
    assert_eq!(said.lines().last(), Some("stopped"), "{said}");
}

#[tokio::test]
async fn a_data_file_is_read_and_written_by_an_sdk_and_stays_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data.db").display().to_string();
    let bank = fixture("bank").display().to_string();
    for arguments in [&["--data", &data, "events", "import", &bank][..], &["--data", &data, "replay", &bank]] {
        assert_eq!(projector(arguments).await.0, 0);
    }
    let key = AttributeValue::S("account-alice".into());
    for (signal, balance) in [("-INT", "4711"), ("-TERM", "4712")] {
        let (child, url) = serve(&data).await;
        let client = client(&url);
        let tables = client.list_tables().send().await.expect("listed");
        assert_eq!(
            tables.table_names(),
            [
                "account-statement",
                "account-summary",
                "event-store",
                "forum-counters",
                "order-fulfilment",
                "parked",
                "process-status",
                "topic-posts",
                "transfers",
                "users-and-orders"
            ]
        );
        let update = client.update_item().table_name("account-summary").key("accountId", key.clone());
        let update = update.update_expression("SET balance = :b").expression_attribute_values(":b", AttributeValue::N(balance.into()));
        update.send().await.expect("updated");
        let (code, out, said) = projector(&["--endpoint-url", &url, "status"]).await;
        assert!(code == 0 && out.contains("account-summary"), "{out}{said}");
        let (code, _, said) = projector(&["--data", &data, "status"]).await;
        assert!(code == 2 && said.contains("is open elsewhere"), "{said}");
        stop(child, signal).await;

        let (_, row, said) = projector(&["--data", &data, "rows", "get", "account-summary", "account-alice"]).await;
        assert!(row.contains(balance), "{row}{said}");
    }
    let (code, out, _) = projector(&["--data", &data, "verify", "account-summary"]).await;
    assert!(code == 1 && out.contains("drifted: account-alice"), "{out}");
}

/// As an SDK repeats a request whose answer was lost.
#[tokio::test]
async fn a_transaction_sent_twice_with_one_token_is_applied_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (child, url) = serve(&folder.path().join("data.db").display().to_string()).await;
    let client = client(&url);
    for _ in 0..2 {
        let add = aws_sdk_dynamodb::types::Update::builder().table_name("account-summary").key("accountId", AttributeValue::S("a".into()));
        let add = add.update_expression("ADD balance :one").expression_attribute_values(":one", AttributeValue::N("1".into()));
        let action = aws_sdk_dynamodb::types::TransactWriteItem::builder().update(add.build().expect("complete")).build();
        client.transact_write_items().transact_items(action).client_request_token("one").send().await.expect("taken");
    }
    let row = client.get_item().table_name("account-summary").key("accountId", AttributeValue::S("a".into())).send().await.expect("read");
    assert_eq!(row.item.expect("a row")["balance"], AttributeValue::N("1".into()));
    stop(child, "-TERM").await;
}

/// What a page in a browser can send: with its own host name (DNS rebinding), or a request that needs no permission beforehand.
#[tokio::test]
async fn web_pages_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (child, url) = serve(&folder.path().join("data.db").display().to_string()).await;
    let address = url.trim_start_matches("http://");
    let answer = async |head: &str| {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request = format!("{head}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    };
    let list = "x-amz-target: DynamoDB_20120810.ListTables";
    let allowed = answer(&format!("POST / HTTP/1.1\r\nhost: {address}\r\n{list}")).await;
    assert!(allowed.starts_with("HTTP/1.1 200") && allowed.contains("event-store"), "{allowed}");
    for (head, status) in [
        (format!("POST / HTTP/1.1\r\nhost: attacker.example:8000\r\n{list}"), 403),
        (format!("POST / HTTP/1.1\r\nhost: {address}\r\ncontent-type: text/plain"), 404),
        (format!("OPTIONS / HTTP/1.1\r\nhost: {address}\r\norigin: https://attacker.example\r\naccess-control-request-method: POST"), 404),
    ] {
        let refused = answer(&head).await;
        assert!(refused.starts_with(&format!("HTTP/1.1 {status}")), "{refused}");
        assert!(!refused.to_lowercase().contains("access-control-allow") && !refused.contains("event-store"), "{refused}");
    }
    stop(child, "-INT").await;
}

#[test]
fn a_port_in_use_and_a_store_elsewhere_are_usage_errors() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port().to_string();
    for (arguments, says) in [
        (&["serve", "--port", &port][..], "choose another --port"),
        (&["--endpoint-url", "http://127.0.0.1:1", "serve"], "omit --aws and --endpoint-url"),
    ] {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_projector")));
        let output = command.args(arguments).env_clear().stdin(Stdio::null()).output().expect("projector runs");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{output:?}");
    }
}
