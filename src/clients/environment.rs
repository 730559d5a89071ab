//! The Lambda's client, from the variables that Lambda sets.

use aws_sdk_dynamodb::{
    Client, Config,
    config::{
        Credentials, Region,
        endpoint::{DefaultResolver, Params, ResolveEndpoint as _},
    },
};
use aws_smithy_runtime_api::client::http::{SharedHttpConnector, http_client_fn};

use super::{HTTP_URL, KEY_ID, REGION, SECRET_KEY, SESSION_TOKEN, client, http1, is_http_url};
use crate::config::{ConfigError, ConfigProblem};

/// The address of DynamoDB, if it is not the public one. The first variable that is set counts, as in every AWS SDK
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>).
const ENDPOINTS: [&str; 2] = ["AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"];

/// A client for the Lambda, from the variables that Lambda sets
/// (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime>). The credentials are
/// valid for as long as the process: Lambda ends it before they expire.
///
/// # Errors
/// One error for all variables that are missing or wrong.
pub fn of_environment(var: impl Fn(&str) -> Option<String>) -> Result<(Client, FirstConnection), ConfigError> {
    let set = |name: &str| var(name).filter(|value| !value.is_empty());
    let mut problems = Vec::new();
    let mut required = |name: &str| {
        set(name).unwrap_or_else(|| {
            problems.push(ConfigProblem::missing(name));
            String::new()
        })
    };
    let region = Region::new(required(REGION));
    let credentials = Credentials::new(required(KEY_ID), required(SECRET_KEY), set(SESSION_TOKEN), None, "environment");
    let endpoint = ENDPOINTS.iter().find_map(|name| Some((name, set(name)?)));
    if let Some((name, url)) = &endpoint
        && !is_http_url(url)
    {
        problems.push(ConfigProblem::invalid(**name, HTTP_URL));
    }
    let connector = match http1::connector(set) {
        Ok(connector) if problems.is_empty() => connector,
        built => {
            problems.extend(built.err());
            return Err(ConfigError(problems));
        }
    };
    let endpoint = endpoint.map(|(_, url)| url);
    let first = FirstConnection { connector: connector.clone(), region: region.to_string(), endpoint: endpoint.clone() };
    let mut config = Config::builder().region(region).credentials_provider(credentials);
    config.set_endpoint_url(endpoint);
    Ok((client(config, http_client_fn(move |_, _| connector.clone())), first))
}

/// The connection that the first request takes, so that it does not wait for TLS.
#[derive(Debug)]
pub struct FirstConnection {
    connector: SharedHttpConnector,
    region: String,
    endpoint: Option<String>,
}

impl FirstConnection {
    /// Opens it, if TLS makes it slow. To be run beside the first poll: on a new process Lambda gives all of a processor until then, and
    /// if an event waits already, its first request takes this connection as soon as it is there.
    ///
    /// Lambda may freeze the process in the middle. The connection is then lost when it thaws, which costs nothing: requests open their
    /// own. A failure is of no consequence either: the first request fails in the same way and says why.
    pub async fn open(self) {
        if let Some(address) = self.address().await.filter(|address| address.starts_with("https:")) {
            http1::open(self.connector, address).await;
        }
    }

    /// Where the client's requests go.
    async fn address(&self) -> Option<String> {
        let parameters = Params::builder().region(&self.region).set_endpoint(self.endpoint.clone()).build().ok()?;
        let endpoint = DefaultResolver::new().resolve_endpoint(&parameters).await.ok()?;
        Some(endpoint.url().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, BufRead as _, BufReader, Read as _, Write as _},
        net::{TcpListener, TcpStream},
        path::{Path, PathBuf},
        sync::{Arc, Mutex},
        thread,
        time::Duration,
    };

    use aws_sdk_dynamodb::{config::retry::RetryConfig, error::SdkError};
    use rustls::{
        ServerConfig, ServerConnection, StreamOwned,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    };
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn of<'a>(variables: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
    }

    const LAMBDA: [(&str, &str); 4] =
        [("AWS_REGION", "eu-central-1"), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_SESSION_TOKEN", "token")];

    #[test]
    fn one_message_names_every_wrong_variable_and_shows_no_value() {
        let error = of_environment(of(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_ENDPOINT_URL", "p4ssw0rd")]));
        assert_eq!(
            error.unwrap_err().to_string(),
            "AWS_REGION is not set; AWS_SECRET_ACCESS_KEY is not set; AWS_ENDPOINT_URL is not a valid http or https URL in ASCII"
        );
    }

    /// A DynamoDB with TLS that has no tables. Its authority is nobody's but its own.
    struct Authority {
        url: String,
        /// What was asked on each connection, by first lines.
        connections: Arc<Mutex<Vec<Vec<String>>>>,
    }

    impl Authority {
        /// The certificate that a client has to trust.
        fn roots() -> PathBuf {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("src/clients/localhost.pem")
        }

        fn new() -> Self {
            let (certificate, key) = (CertificateDer::from_pem_file(Self::roots()), PrivateKeyDer::from_pem_file(Self::roots()));
            let config =
                ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap();
            let config = config.with_no_client_auth().with_single_cert(vec![certificate.unwrap()], key.unwrap()).unwrap();
            let (config, connections) = (Arc::new(config), Arc::<Mutex<Vec<Vec<String>>>>::default());
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
            let seen = connections.clone();
            thread::spawn(move || {
                for (number, stream) in listener.incoming().enumerate() {
                    seen.lock().unwrap().push(Vec::new());
                    let (seen, tls) = (seen.clone(), StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream.unwrap()));
                    // It ends with the connection.
                    thread::spawn(move || serve(tls, |asked| seen.lock().unwrap()[number].push(asked)));
                }
            });
            Self { url, connections }
        }

        fn client(&self, more: &[(&str, &str)]) -> (Client, FirstConnection) {
            of_environment(of(&[LAMBDA.as_slice(), &[("AWS_ENDPOINT_URL", self.url.as_str())], more].concat())).unwrap()
        }
    }

    fn serve(stream: StreamOwned<ServerConnection, TcpStream>, asked: impl Fn(String)) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut first, mut length) = (String::new(), 0);
            stream.read_line(&mut first)?;
            let mut line = first.clone();
            while line != "\r\n" {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
                if stream.read_line(&mut line)? == 0 {
                    return Ok(());
                }
            }
            stream.read_exact(&mut vec![0; length])?;
            asked(first.trim().to_owned());
            let answer = r#"{"TableNames":[]}"#;
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())?;
        }
    }

    #[tokio::test]
    async fn the_first_request_takes_the_connection_that_was_opened_in_advance() {
        for variable in ["AWS_CA_BUNDLE", "SSL_CERT_FILE"] {
            let authority = Authority::new();
            let (client, first) = authority.client(&[(variable, Authority::roots().to_str().unwrap())]);
            first.open().await;
            assert_eq!(*authority.connections.lock().unwrap(), [["GET / HTTP/1.1"]], "{variable}");
            client.list_tables().send().await.unwrap();
            assert_eq!(*authority.connections.lock().unwrap(), [["GET / HTTP/1.1", "POST / HTTP/1.1"]], "{variable}");
        }
    }

    #[tokio::test]
    async fn an_authority_that_is_not_among_the_roots_is_not_trusted() {
        let authority = Authority::new();
        let (client, first) = authority.client(&[]);
        first.open().await;
        assert!(matches!(client.list_tables().send().await, Err(SdkError::DispatchFailure(_))));
        assert!(authority.connections.lock().unwrap().iter().all(Vec::is_empty), "nothing is asked before the certificate is checked");
    }

    #[test]
    fn a_file_without_certificates_is_named_by_its_variable() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        let (empty, good) = (empty.path().to_str().unwrap(), Authority::roots());
        let good = good.to_str().unwrap();
        for bad in [empty, "/no/such/file"] {
            let error = |variables: &[_]| of_environment(of(&[LAMBDA.as_slice(), variables].concat())).err().unwrap().to_string();
            let expected = |name: &str| format!("{name} is not the path of a readable PEM file with certificates");
            assert_eq!(error(&[("SSL_CERT_FILE", bad)]), expected("SSL_CERT_FILE"));
            assert_eq!(error(&[("SSL_CERT_FILE", good), ("AWS_CA_BUNDLE", bad)]), expected("AWS_CA_BUNDLE"));
            assert!(of_environment(of(&[LAMBDA.as_slice(), &[("SSL_CERT_FILE", bad), ("AWS_CA_BUNDLE", good)]].concat())).is_ok());
        }
    }

    #[tokio::test]
    async fn without_tls_no_connection_is_opened_in_advance() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (_, first) = of_environment(of(&[LAMBDA.as_slice(), &[("AWS_ENDPOINT_URL", url.as_str())]].concat())).unwrap();
        first.open().await;
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn the_first_connection_leads_where_requests_go() {
        let (_, first) = of_environment(of(&LAMBDA)).unwrap();
        assert_eq!(first.address().await.as_deref(), Some("https://dynamodb.eu-central-1.amazonaws.com"));
    }

    #[tokio::test]
    async fn the_client_never_retries_and_every_attempt_times_out() {
        let (client, _) = of_environment(of(&LAMBDA)).unwrap();
        let config = client.config();
        assert_eq!(config.retry_config().map(RetryConfig::max_attempts), Some(1));
        let timeouts = config.timeout_config().unwrap();
        assert_eq!(timeouts.operation_attempt_timeout(), Some(Duration::from_secs(3)));
        assert_eq!(timeouts.connect_timeout(), Some(Duration::from_secs(1)));
        assert_eq!(config.region().unwrap().as_ref(), "eu-central-1");
    }

    #[tokio::test]
    async fn a_request_to_a_server_that_never_answers_times_out() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let environment =
            [LAMBDA.as_slice(), &[("AWS_ENDPOINT_URL_DYNAMODB", url.as_str()), ("AWS_ENDPOINT_URL", "https://other")]].concat();
        let (client, _) = of_environment(of(&environment)).unwrap();
        // The kernel accepts the connection, but no program reads from it.
        let error = client.list_tables().send().await.unwrap_err();
        assert!(matches!(error, aws_sdk_dynamodb::error::SdkError::TimeoutError(_)), "{error:?}");
    }

    #[tokio::test]
    async fn an_https_endpoint_gets_tls_and_an_http_endpoint_does_not() {
        for (scheme, first) in [("https", 0x16), ("http", b'P')] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("{scheme}://{}", listener.local_addr().unwrap());
            let (client, _) = of_environment(of(&[LAMBDA.as_slice(), &[("AWS_ENDPOINT_URL", url.as_str())]].concat())).unwrap();
            let begin = async {
                let mut stream = listener.accept().await.unwrap().0;
                stream.read_u8().await.unwrap()
            };
            tokio::select! {
                // The first byte of a TLS handshake, or the P of POST.
                begin = begin => assert_eq!(begin, first, "{scheme}"),
                done = client.list_tables().send() => panic!("nobody answered: {done:?}"),
            }
        }
    }
}
