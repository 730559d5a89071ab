//! Who may ask, and that nothing an event holds becomes part of the page.

use std::process::Stdio;

use crate::support::{
    console::{Answer, Console},
    projector::projector,
};

/// What a page in a browser can send: under its own host name (DNS rebinding), or a form of another site.
#[tokio::test]
async fn other_web_pages_are_refused() {
    let console = Console::start().await;
    let page = console.page.clone();
    let post = |origin: &str| format!("POST /press HTTP/1.1\r\nhost: {page}\r\n{origin}");
    for (head, status) in [
        (format!("GET / HTTP/1.1\r\nhost: {page}"), 200),
        ("GET / HTTP/1.1\r\nhost: attacker.example:8001".to_owned(), 403),
        ("GET /news?after=0 HTTP/1.1\r\nhost: attacker.example".to_owned(), 403),
        (post(""), 403),
        (post("origin: null"), 403),
        (post("origin: https://attacker.example"), 403),
        (post("origin: http://localhost:1"), 403),
        (post(&format!("origin: https://{page}")), 403),
        (post(&format!("origin: http://{page}")), 200),
        (format!("PUT / HTTP/1.1\r\nhost: {page}\r\norigin: https://attacker.example"), 403),
        (format!("GET /nothing HTTP/1.1\r\nhost: {page}"), 404),
    ] {
        let head = head.trim_end().to_owned() + "\r\nx-script: 1";
        let Answer { status: found, headers, body } = console.ask(&head, "what=lose").await;
        assert_eq!(found, status, "{head}: {body}");
        assert!(!headers.contains("access-control-allow"), "{headers}");
        if status != 403 {
            assert!(headers.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{headers}");
            assert!(headers.contains("x-content-type-options: nosniff") && headers.contains("cache-control: no-store"), "{headers}");
        }
    }
}

#[tokio::test]
async fn what_an_event_holds_is_text_on_every_page_and_in_no_log() {
    const MARKUP: &str = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&";
    const CONTROL: &str = "\u{1b}[31mred\u{202e}turned\r\n";
    let mut console = Console::start().await;
    let id = format!("a{MARKUP}");
    console.command("category", &id, "Create", &[("name", MARKUP), ("description", CONTROL)]).await;
    console.until("/", "the event", |page| page.contains("v1")).await;
    let (status, said) = console.send("/press", &[("what", "poison"), ("aggregate", &id)]).await;
    assert_eq!(status, 200, "{said}");
    console.until("/parked", "the parked aggregate", |page| page.contains("Redrive all")).await;
    let key = "a%3Cscript%3Ealert(1)%3C%2Fscript%3E%3Cimg%20src%3Dx%20onerror%3Dalert(2)%3E%22%27%26";
    for path in [
        "/".to_owned(),
        "/rows?projection=forum-counters".to_owned(),
        format!("/rows?projection=forum-counters&find={key}"),
        format!("/row?projection=forum-counters&key={key}"),
        format!("/aggregate?id={key}&projection=forum-counters"),
        "/parked".to_owned(),
        format!("/parked?projection=forum-counters&aggregate={key}"),
        format!("/commands?kind=account&aggregate={key}"),
        format!("/?said={key}&ok=0"),
        format!("/rows?projection={key}"),
        format!("/process?instance={key}"),
    ] {
        let Answer { body, .. } = console.get(&path).await;
        assert!(body.contains("&lt;script&gt;"), "{path} shows it: {body}");
        assert!(!body.contains("<script>") && !body.contains("<img"), "{path}: {body}");
        assert!(!body.contains(['\u{1b}', '\u{202e}']), "{path}: {body}");
    }
    let id = console.child.id().expect("it runs").to_string();
    let kill = std::process::Command::new("kill").args(["-INT", &id]).stdin(Stdio::null()).status();
    assert!(kill.expect("kill runs").success());
    let mut said = String::new();
    let mut pipe = console.child.stderr.take().expect("a pipe");
    tokio::io::AsyncReadExt::read_to_string(&mut pipe, &mut said).await.expect("read");
    assert_eq!(console.child.wait().await.expect("it ends").code(), Some(0), "{said}");
    assert!(!said.contains("red") && !said.contains("turned"), "event data in the log: {said}");
    assert_eq!(said.lines().last(), Some("stopped"), "{said}");
}

#[tokio::test]
async fn a_store_elsewhere_and_a_port_in_use_are_usage_errors() {
    let (code, _, said) = projector(&["--endpoint-url", "http://127.0.0.1:1", "dev"]).await;
    assert!(code == 2 && said.contains("`dev` runs a DynamoDB inside this process: omit --aws and --endpoint-url"), "{said}");
    let console = Console::start().await;
    let port = console.page.rsplit(':').next().expect("a port");
    let (code, _, said) = projector(&["dev", "--port", "0", "--page-port", port]).await;
    assert!(code == 2 && said.contains("choose another --page-port, or 0 for a free one"), "{said}");
}
