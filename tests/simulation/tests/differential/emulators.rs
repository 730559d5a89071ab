//! The implementations that the simulated database is compared with.

use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use aws_sdk_dynamodb::{
    Client,
    types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType},
};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector},
        orchestrator::{HttpRequest, HttpResponse},
    },
    http::StatusCode,
};
use aws_smithy_types::{body::SdkBody, timeout::TimeoutConfig};
use projection_worker::internals::{clients, embedded::Embedded};
use simulation::expression::Item;

/// A table: its name, partition key and sort key.
pub type Table = (&'static str, &'static str, Option<&'static str>);

/// Which implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// dynoxide, in this process.
    Embedded,
    /// moto's server.
    Moto,
}

/// One of them, with empty tables.
pub struct Emulator {
    /// Which.
    pub kind: Kind,
    /// How to reach it.
    pub client: Client,
}

impl Emulator {
    /// A new embedded emulator.
    pub async fn embedded(tables: &[Table]) -> Self {
        let embedded = Embedded::memory().expect("there is memory");
        let database = embedded.database().clone();
        let emulator = Self { kind: Kind::Embedded, client: embedded.client_with(|inner| WithTokens { inner, database }) };
        emulator.empty(tables).await;
        emulator
    }

    /// A moto server with empty tables.
    pub async fn moto(server: &Moto, tables: &[Table]) -> Self {
        let client = clients::of_endpoint(&server.url).expect("the address is one");
        // The server is slow beside other tests. A request that is sent again would be compared with one that is not.
        let patient = client.config().to_builder().timeout_config(TimeoutConfig::disabled());
        let emulator = Self { kind: Kind::Moto, client: Client::from_conf(patient.build()) };
        emulator.empty(tables).await;
        emulator
    }

    /// Deletes and creates the tables.
    pub async fn empty(&self, tables: &[Table]) {
        for (name, partition, sort) in tables {
            // The table may not exist yet.
            _ = self.client.delete_table().table_name(*name).send().await;
            let mut table = self.client.create_table().table_name(*name).billing_mode(BillingMode::PayPerRequest);
            for (key, kind) in [(*partition, KeyType::Hash)].into_iter().chain(sort.map(|sort| (sort, KeyType::Range))) {
                let element = KeySchemaElement::builder().attribute_name(key).key_type(kind);
                let definition = AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S);
                table = table.key_schema(element.build().expect("all is given"));
                table = table.attribute_definitions(definition.build().expect("all is given"));
            }
            table.send().await.expect("the table is created");
        }
    }

    /// Puts an item unconditionally.
    pub async fn put(&self, table: &str, item: Item) {
        self.client.put_item().table_name(table).set_item(Some(item)).send().await.expect("the item is taken");
    }
}

/// Passes the token of a transaction to the emulator, which the worker's own tests leave out (see `projection_worker::internals::embedded`).
struct WithTokens {
    inner: SharedHttpConnector,
    database: dynoxide::Database,
}

impl fmt::Debug for WithTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithTokens").finish_non_exhaustive()
    }
}

impl HttpConnector for WithTokens {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if request.headers().get("x-amz-target") != Some("DynamoDB_20120810.TransactWriteItems") {
            return self.inner.call(request);
        }
        let parsed = request.body().bytes().and_then(|body| serde_json::from_slice(body).ok());
        // The emulator refuses a request that cannot be read, with or without tokens.
        let Some(transaction) = parsed else { return self.inner.call(request) };
        let (status, body) = match self.database.transact_write_items(transaction) {
            Ok(done) => (200, serde_json::to_string(&done).expect("the answer is JSON")),
            Err(error) => (error.status_code(), error.to_json()),
        };
        HttpConnectorFuture::ready(Ok(HttpResponse::new(StatusCode::try_from(status).expect("it is a status"), SdkBody::from(body))))
    }
}

/// A running moto server. Dropping it ends the server.
pub struct Moto {
    url: String,
    process: Child,
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Moto {
    /// Starts it from a virtual environment, which is created if it does not exist.
    ///
    /// # Errors
    /// Why it cannot be started here.
    pub fn start() -> Result<Self, String> {
        let python = environment()?;
        // The server chooses the port. If this chose a free one, a connection of another test could take it before the server does.
        let mut server = Command::new(python);
        server.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
        let mut process = server.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let mut log = BufReader::new(process.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
        let mut moto = Self { url: String::new(), process };
        let mut before = String::new();
        for line in &mut log {
            if let Some((_, url)) = line.split_once("Running on ") {
                url.trim().clone_into(&mut moto.url);
                break;
            }
            before = before + &line + "\n";
        }
        if moto.url.is_empty() {
            return Err(format!("moto's server did not start: {before}"));
        }
        // Read to the end, because the server blocks when its access log fills the pipe.
        thread::spawn(move || log.for_each(drop));
        Ok(moto)
    }
}

const REQUIREMENTS: &str = include_str!("moto-requirements.txt");

/// The Python interpreter of a virtual environment with moto.
fn environment() -> Result<PathBuf, String> {
    // Named after its requirements, so that another version of moto gets another environment.
    let name =
        format!("moto-{:016x}", REQUIREMENTS.bytes().fold(0_u64, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)));
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Tests run in parallel, in one process or in several.
    let lock = File::create(directory.with_extension("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let (python, complete) = (directory.join("bin/python"), directory.join("complete"));
    if !complete.exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
        let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/moto-requirements.txt");
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(requirements))?;
        std::fs::write(complete, "").map_err(|error| error.to_string())?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let done = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}
