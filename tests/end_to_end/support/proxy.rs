//! The network between a worker's process and DynamoDB: an HTTP proxy that delays, refuses, loses, cuts or postpones calls.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

use crate::support::world::{Call, World};

/// What happens to a call.
pub enum Fault {
    None,
    /// Applied and answered after this time.
    Delayed(Duration),
    /// Not applied; answered with this status and body instead.
    Instead(u16, String),
    /// Applied, but answered with this status and body.
    AppliedBut(u16, String),
    /// Not applied; the connection is cut.
    CutBefore,
    /// Applied; the connection is cut instead of an answer.
    Lost,
    /// Applied; the connection is cut in the middle of the answer.
    CutAmid,
    /// The connection is cut; the call is applied after this number of further calls.
    Late(usize),
    /// Never answered; applied after the worker has given up waiting.
    Hung,
}

/// When the call at which a process is killed is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Never,
    Before,
    /// After the process is dead.
    After,
}

type Plan = Box<dyn Fn(&Call<'_>) -> (&'static str, Fault) + Send + Sync>;

/// Sits between the processes of a test and its DynamoDB. Dropping it closes all its doors.
pub struct Proxy {
    shared: Arc<Shared>,
    doors: Mutex<JoinSet<()>>,
}

struct Shared {
    /// `host:port`.
    upstream: String,
    plan: Plan,
    calls: AtomicUsize,
    /// Postponed requests, each with the number of the call at which it is applied.
    late: Mutex<Vec<(usize, Message)>>,
    seen: Mutex<BTreeMap<String, u64>>,
    connections: Mutex<JoinSet<io::Result<()>>>,
}

/// One process's entrance to the proxy, at an address of its own.
pub struct Door {
    /// The address to give the process as DynamoDB's endpoint.
    pub url: String,
    state: Arc<DoorState>,
}

#[derive(Default)]
struct DoorState {
    calls: AtomicUsize,
    fatal: Mutex<Option<(usize, Applied)>>,
    shut_from: Mutex<Option<usize>>,
    struck: Notify,
}

/// No test panics while holding a lock; if one does, its own panic message should be the one that is read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Passes calls on to the world's database as planned. The plan also names each fault.
    pub async fn new(world: &World, plan: impl Fn(&Call<'_>) -> (&'static str, Fault) + Send + Sync + 'static) -> Self {
        let upstream = world.serve().await.trim_start_matches("http://").to_owned();
        let shared = Shared {
            upstream,
            plan: Box::new(plan),
            calls: AtomicUsize::new(0),
            late: Mutex::default(),
            seen: Mutex::default(),
            connections: Mutex::default(),
        };
        Self { shared: Arc::new(shared), doors: Mutex::default() }
    }

    /// Opens another entrance.
    pub async fn door(&self) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (shared, state) = (self.shared.clone(), Arc::<DoorState>::default());
        let door = Door { url, state: state.clone() };
        lock(&self.doors).spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let (inner, state) = (shared.clone(), state.clone());
                lock(&shared.connections).spawn(async move { serve(&inner, &state, client).await });
            }
        });
        door
    }

    /// Waits until every call sent is applied or lost. The processes must have ended.
    pub async fn settle(&self) {
        let mut connections = std::mem::take(&mut *lock(&self.shared.connections));
        while let Some(ended) = connections.join_next().await {
            // A connection ends with an error when either side ends, which is normal here.
            let _ = ended.expect("no connection panics");
        }
        self.shared.arrive(usize::MAX).await;
    }

    /// How often each fault and each operation occurred.
    pub fn seen(&self) -> BTreeMap<String, u64> {
        lock(&self.shared.seen).clone()
    }
}

impl Door {
    /// Makes the `nth` call from now fatal to the process: [`struck`](Self::struck) returns when it arrives.
    pub fn arm(&self, nth: usize, applied: Applied) {
        *lock(&self.state.fatal) = Some((self.state.calls.load(Relaxed) + nth, applied));
    }

    /// Denies all calls from the `nth` on, as if the process had lost its permissions.
    pub fn shut(&self, nth: usize) {
        *lock(&self.state.shut_from) = Some(self.state.calls.load(Relaxed) + nth);
    }

    /// Makes no call fatal and lets all calls through.
    pub fn disarm(&self) {
        *lock(&self.state.fatal) = None;
        *lock(&self.state.shut_from) = None;
    }

    pub async fn struck(&self) {
        self.state.struck.notified().await;
    }
}

impl DoorState {
    /// Whether this call is the fatal one.
    fn strikes(&self, number: usize) -> Option<Applied> {
        lock(&self.fatal).take_if(|(fatal, _)| *fatal == number).map(|(_, applied)| applied)
    }

    fn is_shut(&self, number: usize) -> bool {
        lock(&self.shut_from).is_some_and(|from| from <= number)
    }
}

impl Shared {
    fn note(&self, what: &str) {
        *lock(&self.seen).entry(what.to_owned()).or_default() += 1;
    }

    /// Applies the postponed requests that are due at this call.
    async fn arrive(&self, number: usize) {
        let due: Vec<_> = lock(&self.late).extract_if(.., |(due, _)| *due <= number).collect();
        for (_, request) in due {
            let answer = self.forward_alone(&request).await;
            self.note(if answer.is_success() { "applied late" } else { "too late" });
        }
    }

    async fn forward_alone(&self, request: &Message) -> Message {
        forward(&self.upstream, &mut None, request).await.expect("the database answers")
    }
}

/// Serves one connection until either end closes it.
async fn serve(shared: &Shared, door: &DoorState, client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufReader::new(client);
    let mut upstream = None;
    while let Some(request) = Message::read(&mut client).await? {
        let number = 1 + shared.calls.fetch_add(1, Relaxed);
        shared.arrive(number).await;
        shared.note(request.operation());
        let of_door = 1 + door.calls.fetch_add(1, Relaxed);
        if let Some(applied) = door.strikes(of_door) {
            if applied == Applied::Before {
                forward(&shared.upstream, &mut upstream, &request).await?;
            }
            door.struck.notify_one();
            ended(&mut client).await;
            if applied == Applied::After {
                shared.forward_alone(&request).await;
            }
            return Ok(());
        }
        if door.is_shut(of_door) {
            let denied = r#"{"__type":"com.amazon.coral.service#AccessDeniedException","message":"as planned"}"#;
            client.write_all(&Message::response(400, denied).bytes).await?;
            continue;
        }
        let (name, fault) = (shared.plan)(&Call { number, operation: request.operation(), body: request.body() });
        if !name.is_empty() {
            shared.note(name);
        }
        // A call is applied whether or not anyone still waits for its answer.
        let answer = match fault {
            Fault::None => forward(&shared.upstream, &mut upstream, &request).await?,
            Fault::Delayed(time) => {
                tokio::time::sleep(time).await;
                forward(&shared.upstream, &mut upstream, &request).await?
            }
            Fault::Instead(status, body) => Message::response(status, &body),
            Fault::AppliedBut(status, body) => {
                forward(&shared.upstream, &mut upstream, &request).await?;
                Message::response(status, &body)
            }
            Fault::CutBefore => return Ok(()),
            Fault::Lost => {
                forward(&shared.upstream, &mut upstream, &request).await?;
                return Ok(());
            }
            Fault::CutAmid => {
                let answer = forward(&shared.upstream, &mut upstream, &request).await?;
                client.write_all(&answer.bytes[..answer.bytes.len() / 2]).await?;
                return Ok(());
            }
            Fault::Late(calls) => {
                lock(&shared.late).push((number + calls, request));
                return Ok(());
            }
            Fault::Hung => {
                ended(&mut client).await;
                shared.forward_alone(&request).await;
                return Ok(());
            }
        };
        client.write_all(&answer.bytes).await?;
    }
    Ok(())
}

/// Waits until the other side has closed the connection or died.
async fn ended(client: &mut BufReader<TcpStream>) {
    let mut rest = Vec::new();
    // An error means the same.
    let _ = client.read_to_end(&mut rest).await;
}

async fn forward(upstream: &str, connection: &mut Option<BufReader<TcpStream>>, request: &Message) -> io::Result<Message> {
    if connection.is_none() {
        let stream = TcpStream::connect(upstream).await?;
        stream.set_nodelay(true)?;
        *connection = Some(BufReader::new(stream));
    }
    let connection = connection.as_mut().expect("it was made");
    connection.write_all(&request.bytes).await?;
    Message::read(connection).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// One HTTP/1.1 request or response, byte for byte.
struct Message {
    bytes: Vec<u8>,
    head: usize,
}

impl Message {
    /// `None` at the end of the stream. All messages here state their length.
    async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let mut length = 0;
        loop {
            let begin = bytes.len();
            if stream.read_until(b'\n', &mut bytes).await? == 0 {
                return if bytes.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            if &bytes[begin..] == b"\r\n" {
                break;
            }
            if let Some(value) = value(&bytes[begin..], "content-length") {
                length = value.parse().expect("a length");
            }
        }
        let head = bytes.len();
        bytes.resize(head + length, 0);
        stream.read_exact(&mut bytes[head..]).await?;
        Ok(Some(Self { bytes, head }))
    }

    fn response(status: u16, body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} As Planned\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {length}\r\n\r\n");
        Self { head: head.len(), bytes: (head + body).into_bytes() }
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes[..self.head].split_inclusive(|byte| *byte == b'\n')
    }

    fn operation(&self) -> &str {
        let target = self.lines().find_map(|line| value(line, "x-amz-target")).unwrap_or_default();
        target.rsplit('.').next().unwrap_or_default()
    }

    fn body(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.head..]).expect("JSON")
    }

    fn is_success(&self) -> bool {
        self.bytes.starts_with(b"HTTP/1.1 200 ")
    }
}

/// The value of this header, if this line is that header.
fn value<'a>(line: &'a [u8], header: &str) -> Option<&'a str> {
    let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
    name.eq_ignore_ascii_case(header).then(|| value.trim())
}
