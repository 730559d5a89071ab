//! The page over HTTP: who may ask, and what answers.

use std::{convert::Infallible, io, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Form, Router,
    extract::{DefaultBodyLimit, Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{
        IntoResponse, Redirect, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use maud::{Markup, PreEscaped};
use serde::Deserialize;
use tokio::net::TcpListener;

use super::{
    Console, Pressed, checks,
    pages::{self, Failure, SaidBefore},
    traffic::Rate,
};

/// The largest form: a command with an event's worth of data.
const FORM_BYTES_MAX: usize = 1 << 20;
/// How long requests in progress may take after the server was told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(1);
/// How often a page that watches is told what is new, at most.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// How many records it is told of at once, at most: more than that nobody reads.
const TOLD_MAX: usize = 30;
/// How long the page is kept throttled.
const THROTTLED_FOR: Duration = Duration::from_secs(10);
/// Names of this machine from within. A web page that had its own name resolved to this address (DNS rebinding) sends that name.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];
/// Nothing from elsewhere, no script but the one that is served here, and no other site around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; \
                      frame-ancestors 'none'; base-uri 'none'";
/// What a script sends with a form: it shows the answer in place, instead of a page.
const SCRIPT: HeaderName = HeaderName::from_static("x-script");

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Programs and browsers on this machine.
    Loopback,
    /// Whoever reaches the address.
    Anybody,
}

impl Access {
    /// Who reaches this address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_loopback() { Self::Loopback } else { Self::Anybody }
    }

    /// Whether a `Host` header names this server, with or without a port. An address cannot be resolved to another, so any will do where
    /// anybody may ask.
    fn admits(self, host: &str) -> bool {
        let is = |name: &str| host.strip_prefix(name).is_some_and(|rest| rest.is_empty() || is_port(rest));
        LOOPBACK.iter().any(|name| is(name)) || (self == Self::Anybody && is_address(host))
    }
}

fn is_port(rest: &str) -> bool {
    rest.strip_prefix(':').is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

type Shared = State<Arc<Console>>;

/// Serves the page until `stop` resolves.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    console: Arc<Console>,
    listener: TcpListener,
    access: Access,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let stop = stop.shared();
    let until = stop.clone();
    let router = Router::new()
        .route("/", get(live))
        .route(
            "/news",
            get(move |State(console): Shared, Query(after): Query<After>, headers: HeaderMap| async move {
                news(console, after.number(&headers), until)
            }),
        )
        .route("/style.css", get(|| async { asset("text/css; charset=utf-8", include_str!("pages/style.css")) }))
        .route("/script.js", get(|| async { asset("text/javascript; charset=utf-8", include_str!("pages/script.js")) }))
        .route("/rows", get(rows))
        .route("/row", get(row))
        .route("/aggregate", get(aggregate))
        .route("/commands", get(commands).post(command))
        .route("/processes", get(process_list))
        .route("/process", get(process).post(operate))
        .route("/parked", get(parked))
        .route("/parked/redrive", post(redrive))
        .route("/checks", get(check_list).post(check))
        .route("/press", post(press))
        .route("/traffic", post(set_traffic))
        .route("/fixture", post(fixture))
        .fallback(|| async { Failure::NotFound("there is no such page".to_owned()) })
        .layer(middleware::from_fn(move |request: Request, next: Next| guard(access, request, next)))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .with_state(console);
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone()).into_future();
    tokio::select! {
        ended = server => ended,
        () = async { stop.await; tokio::time::sleep(STOP_WITHIN).await; } => Ok(()),
    }
}

/// Refuses what another web page sends, or a page under another name, and tells the browser what this one may do.
async fn guard(access: Access, request: Request, next: Next) -> Response {
    if let Some(why) = why_refused(access, request.method(), request.headers()) {
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Of this page alone, so that its forms have an origin.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn why_refused(access: Access, method: &Method, headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if !access.admits(host) {
        return Some("this page answers to 127.0.0.1 and localhost only\n");
    }
    // A browser names the origin of every form. Who sends none is no browser, or hides something.
    let is_read = *method == Method::GET || *method == Method::HEAD;
    let is_own = text(header::ORIGIN).and_then(|origin| origin.strip_prefix("http://")) == Some(host);
    (!is_read && !is_own).then_some("only this page itself may send this\n")
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::NotFound(text) => (StatusCode::NOT_FOUND, text),
            Self::Invalid(text) => (StatusCode::BAD_REQUEST, text),
            Self::Failed(text) => (StatusCode::INTERNAL_SERVER_ERROR, text),
        };
        (status, pages::failure(&text)).into_response()
    }
}

type Page = Result<Markup, Failure>;

/// The answer to a form: a sentence, in place for a script, and otherwise above the page that the form was on.
pub struct Said {
    /// Whether it was done.
    pub ok: bool,
    /// The sentence.
    pub text: String,
    /// Where to go on.
    pub to: String,
    /// The request's headers.
    pub headers: HeaderMap,
}

impl IntoResponse for Said {
    fn into_response(self) -> Response {
        let Self { ok, text, to, headers } = self;
        if headers.contains_key(SCRIPT) {
            return (if ok { StatusCode::OK } else { StatusCode::CONFLICT }, text).into_response();
        }
        let join = if to.contains('?') { '&' } else { '?' };
        let mut said = String::new();
        let mut pairs = form_urlencoded::Serializer::new(&mut said);
        pairs.append_pair("said", &text).append_pair("ok", if ok { "1" } else { "0" });
        pairs.finish();
        Redirect::to(&format!("{to}{join}{said}")).into_response()
    }
}

async fn live(State(console): Shared, Query(said): Query<SaidBefore>) -> Markup {
    pages::live::page(&console, &said)
}

/// From where a page watches.
#[derive(Deserialize)]
struct After {
    /// The number of the last record that it shows.
    after: u64,
}

impl After {
    /// What a browser says that it has, after a lost connection, and else what its page has.
    fn number(&self, headers: &HeaderMap) -> u64 {
        headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(self.after)
    }
}

/// What is new after a record, as it comes. Each piece has the number of the last record, with which a browser asks again after a lost
/// connection.
fn news(
    console: Arc<Console>,
    after: u64,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + Send> {
    let mut watch = console.journal.watch();
    // At once: something may have come since the page was made.
    watch.mark_changed();
    let events = stream::unfold((watch, after, console), |(mut watch, last, console)| async move {
        // Also without a change: lag grows by itself.
        _ = tokio::time::timeout(Duration::from_secs(1), watch.changed()).await;
        tokio::time::sleep(TOLD_EVERY).await;
        watch.mark_unchanged();
        let (entries, left_out) = console.journal.after(last, TOLD_MAX);
        let last = entries.first().map_or(last, |entry| entry.number);
        let mut told = Vec::new();
        if !entries.is_empty() {
            told.push(fragment("lane", last, &pages::live::entries(&entries, left_out)));
        }
        told.push(fragment("standing", last, &pages::live::standing(&console)));
        Some((stream::iter(told), (watch, last, console)))
    });
    Sse::new(events.flatten().take_until(stop).map(Ok)).keep_alive(KeepAlive::default())
}

/// A piece of the page. As JSON, because an event's data is made of lines.
fn fragment(name: &str, last: u64, markup: &Markup) -> Event {
    let PreEscaped(html) = markup;
    Event::default().event(name).id(last.to_string()).data(serde_json::to_string(html).expect("a text is JSON"))
}

async fn rows(State(console): Shared, Query(asked): Query<pages::rows::Asked>) -> Page {
    pages::rows::page(&console, &asked).await
}

async fn row(State(console): Shared, Query(asked): Query<pages::row::Asked>) -> Page {
    pages::row::page(&console, &asked).await
}

async fn aggregate(State(console): Shared, Query(asked): Query<pages::aggregate::Asked>) -> Page {
    pages::aggregate::page(&console, &asked).await
}

async fn commands(State(console): Shared, Query(asked): Query<pages::commands::Asked>, Query(said): Query<SaidBefore>) -> Markup {
    pages::commands::page(&console, &asked, &said)
}

async fn command(State(console): Shared, headers: HeaderMap, Form(fields): Form<Vec<(String, String)>>) -> Said {
    let (ok, text, to) = pages::commands::send(&console, &fields).await;
    Said { ok, text, to, headers }
}

async fn process_list(State(console): Shared, Query(asked): Query<pages::processes::Asked>) -> Page {
    pages::processes::list(&console, &asked).await
}

async fn process(State(console): Shared, Query(asked): Query<pages::processes::One>, Query(said): Query<SaidBefore>) -> Page {
    pages::processes::one(&console, &asked, &said).await
}

async fn operate(State(console): Shared, headers: HeaderMap, Form(form): Form<pages::processes::Operate>) -> Result<Said, Failure> {
    let (ok, text) = pages::processes::operate(&console, &form).await?;
    Ok(Said { ok, text, to: pages::link("/process", &[("instance", &form.instance)]), headers })
}

async fn parked(State(console): Shared, Query(asked): Query<pages::parked::Asked>, Query(said): Query<SaidBefore>) -> Page {
    pages::parked::page(&console, &asked, &said).await
}

async fn redrive(State(console): Shared, headers: HeaderMap, Form(form): Form<pages::parked::Redrive>) -> Result<Said, Failure> {
    let (ok, text) = pages::parked::redrive(&console, &form).await?;
    console.journal.touch();
    Ok(Said { ok, text, to: "/parked".to_owned(), headers })
}

async fn check_list(State(console): Shared, Query(said): Query<SaidBefore>) -> Page {
    pages::checks::page(&console, &said).await
}

#[derive(Deserialize)]
struct CheckForm {
    kind: String,
    projection: String,
}

async fn check(State(console): Shared, headers: HeaderMap, Form(form): Form<CheckForm>) -> Result<Said, Failure> {
    let kind = checks::Kind::ALL.into_iter().find(|(_, name)| *name == form.kind).map(|(kind, _)| kind);
    let kind = kind.ok_or_else(|| Failure::Invalid("there is no such check".to_owned()))?;
    let rule = pages::read_model(&console, &form.projection)?;
    let begun = console.checks.ask(kind, rule);
    let text = if begun { format!("{} of {} has begun", kind.name(), rule.name()) } else { "another check is running".to_owned() };
    Ok(Said { ok: begun, text, to: "/checks".to_owned(), headers })
}

#[derive(Deserialize)]
struct Press {
    what: String,
    #[serde(default)]
    aggregate: String,
}

/// The fault buttons. Each befalls both handlers.
async fn press(State(console): Shared, headers: HeaderMap, Form(form): Form<Press>) -> Result<Said, Failure> {
    let (ours, naive) = (&console.ours.faults, &console.naive.faults);
    let pressed = match form.what.as_str() {
        "again" => {
            let both = [console.ours_mapping.repeat(), console.naive_mapping.repeat()];
            if both.contains(&true) {
                Pressed::Done("the last batch is delivered again")
            } else {
                Pressed::Refused("nothing was delivered yet".to_owned())
            }
        }
        "reorder" => {
            console.ours_mapping.reorder();
            console.naive_mapping.reorder();
            Pressed::Done("the next two events of one aggregate arrive in the wrong order")
        }
        "lose" => {
            ours.lose_an_answer();
            naive.lose_an_answer();
            Pressed::Done("the answer to the next write is lost")
        }
        "kill" => {
            ours.die();
            naive.die();
            Pressed::Done("each function dies after its next write")
        }
        "throttle" => {
            ours.throttle(THROTTLED_FOR);
            naive.throttle(THROTTLED_FOR);
            Pressed::Done("every request is throttled for ten seconds")
        }
        "poison" => console.append_poison(&form.aggregate).await?,
        "break" => {
            console.ours.deploy(true);
            Pressed::Done("rules that refuse everything are deployed")
        }
        "mend" => {
            console.ours.deploy(false);
            Pressed::Done("the right rules are deployed again")
        }
        "expire" => {
            console.naive_mapping.expire();
            Pressed::Done("what blocked the naive handler is too old now, and lost")
        }
        "deliver-given-up" => {
            let records = console.ours_mapping.deliver_given_up();
            if records > 0 {
                Pressed::Done("what was given up is delivered again")
            } else {
                Pressed::Refused("nothing was given up".to_owned())
            }
        }
        _ => return Err(Failure::Invalid("there is no such button".to_owned())),
    };
    console.journal.touch();
    Ok(match pressed {
        Pressed::Done(text) => Said { ok: true, text: text.to_owned(), to: "/".to_owned(), headers },
        Pressed::Refused(text) => Said { ok: false, text, to: "/".to_owned(), headers },
    })
}

#[derive(Deserialize)]
struct TrafficForm {
    #[serde(default)]
    sample: usize,
    per_second: u32,
}

async fn set_traffic(State(console): Shared, headers: HeaderMap, Form(form): Form<TrafficForm>) -> Said {
    let TrafficForm { sample, per_second } = form;
    console.traffic.set(Rate { sample, per_second });
    console.journal.touch();
    let text = if per_second == 0 { "traffic is off".to_owned() } else { format!("{per_second} events a second") };
    Said { ok: true, text, to: "/".to_owned(), headers }
}

#[derive(Deserialize)]
struct FixtureForm {
    name: String,
}

async fn fixture(State(console): Shared, headers: HeaderMap, Form(form): Form<FixtureForm>) -> Said {
    let (ok, text) = match console.save_fixture(form.name.trim()).await {
        Ok((folder, records)) => {
            let folder = folder.display();
            (true, format!("{records} records saved: projector replay {folder} --expect {folder}/expected.json"))
        }
        Err(error) => (false, error.to_string()),
    };
    Said { ok, text, to: "/".to_owned(), headers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_loopback_are_admitted_there() {
        for host in ["127.0.0.1:8001", "localhost:8001", "localhost", "[::1]:8001"] {
            assert!(Access::Loopback.admits(host), "{host}");
        }
        for host in ["", "example.com:8001", "localhost.example.com", "localhost:8001.example.com", "127.0.0.1.example.com", "192.168.0.2"]
        {
            assert!(!Access::Loopback.admits(host), "{host}");
        }
    }

    #[test]
    fn elsewhere_any_address_is_admitted_and_no_name() {
        for host in ["192.168.0.2:8001", "10.0.0.1", "[fe80::1]:8001", "[fe80::1]", "localhost:8001"] {
            assert!(Access::Anybody.admits(host), "{host}");
        }
        for host in ["", "example.com:8001", "example.com", "192.168.0.2.example.com", "8001"] {
            assert!(!Access::Anybody.admits(host), "{host}");
        }
    }
}
