//! `projector dev` in its own process, used over HTTP as a browser does.

use std::time::Duration;

use serde_json::Value as Json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::Child,
};

use super::projector::{projector, start_projector};

/// How long something may take that happens within a moment.
const PATIENCE: Duration = Duration::from_mins(1);

/// A console. Dropping it kills the process.
pub struct Console {
    /// The process.
    pub child: Child,
    /// The page's address, without `http://`.
    pub page: String,
    /// The DynamoDB's.
    pub database: String,
    /// Where its fixtures go.
    pub fixtures: tempfile::TempDir,
}

/// An answer.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, in lower case.
    pub headers: String,
    /// The body.
    pub body: String,
}

impl Console {
    /// Starts one in memory.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with further arguments, before the command.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let fixtures = tempfile::tempdir().expect("a folder");
        let folder = fixtures.path().display().to_string();
        let of_command = ["dev", "--port", "0", "--page-port", "0", "--fixtures", &folder];
        let mut child = start_projector(&[arguments, &of_command].concat());
        let mut out = BufReader::new(child.stdout.as_mut().expect("a pipe"));
        let (mut urls, mut line) = (Vec::new(), String::new());
        while urls.len() < 2 {
            line.clear();
            assert!(out.read_line(&mut line).await.expect("read") > 0, "it says where it is");
            urls.extend(line.split_whitespace().find_map(|word| word.strip_prefix("http://")).map(str::to_owned));
        }
        let database = format!("http://{}", urls.pop().expect("two"));
        Self { child, page: urls.pop().expect("two"), database, fixtures }
    }

    /// Asks for a page.
    pub async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: {}", self.page), "").await
    }

    /// The text of a page that must be there.
    pub async fn page(&self, path: &str) -> String {
        let Answer { status, body, .. } = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Sends a form as the page's script does. Returns the sentence that answers it.
    pub async fn send(&self, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
        let page = &self.page;
        let head = format!("POST {path} HTTP/1.1\r\nhost: {page}\r\norigin: http://{page}\r\nx-script: 1");
        let Answer { status, body, .. } = self.ask(&head, &form(fields)).await;
        (status, body)
    }

    /// Presses a fault button.
    pub async fn press(&self, what: &str) {
        let (status, said) = self.send("/press", &[("what", what), ("aggregate", "ann")]).await;
        assert_eq!(status, 200, "{what}: {said}");
    }

    /// Gives a command that must be accepted.
    pub async fn command(&self, kind: &str, aggregate: &str, name: &str, fields: &[(&str, &str)]) {
        let of_form = [("-kind", kind), ("-aggregate", aggregate), ("-command", name), ("-id", "")];
        let (status, said) = self.send("/commands", &[&of_form, fields].concat()).await;
        assert_eq!(status, 200, "{name}: {said}");
    }

    /// Sends anything, and reads the answer.
    pub async fn ask(&self, head: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.page).await.expect("connected");
        let kind = "content-type: application/x-www-form-urlencoded";
        let request = format!("{head}\r\n{kind}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        let answer = String::from_utf8(answer).expect("UTF-8");
        let (headers, body) = answer.split_once("\r\n\r\n").expect("headers and a body");
        let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, headers: headers.to_lowercase(), body: body.to_owned() }
    }

    /// Waits until a page says something, looking again whenever the console says that there is news.
    pub async fn until(&self, path: &str, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let mut stream = TcpStream::connect(&self.page).await.expect("connected");
        let request = format!("GET /news?after=0 HTTP/1.1\r\nhost: {}\r\n\r\n", self.page);
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut news = BufReader::new(stream).lines();
        let mut last = String::new();
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                last = self.page(path).await;
                if holds(&last) {
                    return;
                }
                while let Some(line) = news.next_line().await.expect("news") {
                    if line.starts_with("event: standing") {
                        break;
                    }
                }
            }
        });
        assert!(waited.await.is_ok(), "{what} did not come: {path} says {last}");
        last
    }

    /// Waits until everything is delivered to the worker and to the naive handler.
    pub async fn until_idle(&self) -> String {
        self.until("/", "the end of all deliveries", |page| page.matches("nothing waits").count() == 2).await
    }

    /// Runs `projector` on its database.
    pub async fn projector(&self, arguments: &[&str]) -> (i32, String, String) {
        projector(&[&["--endpoint-url", &self.database], arguments].concat()).await
    }

    /// A row, by the command line.
    pub async fn row(&self, projection: &str, key: &str) -> Json {
        let (code, out, said) = self.projector(&["rows", "get", projection, key, "--output", "json"]).await;
        assert_eq!(code, 0, "{said}");
        serde_json::from_str(&out).expect("JSON")
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    let encoded = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric();
        text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect::<String>()
    };
    fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect::<Vec<_>>().join("&")
}
