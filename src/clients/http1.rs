//! The HTTP client of the Lambda: HTTP/1.1, over TLS for https addresses. The one user of `hyper-util`, of `rustls`, and of the root
//! certificates that are compiled in.
//!
//! **Why not the SDK's.** It brings HTTP/2, which DynamoDB does not speak, and proxies, which makes the program 0.4 MB larger. And before
//! the first poll it reads and parses the certificates of the system, which takes several times as long as all else.
//!
//! **Whom it trusts.** The roots are Mozilla's, compiled in as what parsing leaves of a certificate, so they cost no time at start. All of
//! them, because not every region and not every address that a team sets has a certificate of Amazon's authorities. They are as old
//! as the lock file; Amazon's are valid until 2037 (<https://www.amazontrust.com/repository/>). An address with a certificate of another
//! authority needs a file of roots, which then replaces the ones compiled in: see [`BUNDLES`].

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        connection::{CaptureSmithyConnection, ConnectionMetadata},
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector},
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
    },
};
use aws_smithy_types::{body::SdkBody, byte_stream::ByteStream};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{CaptureConnection, capture_connection},
    },
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::time::error::Elapsed;
use tower_service::Service;

use super::{ATTEMPT_TIMEOUT, CONNECT_TIMEOUT};
use crate::config::ConfigProblem;

/// Files of root certificates in PEM, in place of those compiled in. The first variable that is set counts: that of the AWS SDKs
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-gen-config.html>), then that of OpenSSL.
const BUNDLES: [&str; 2] = ["AWS_CA_BUNDLE", "SSL_CERT_FILE"];

/// What such a file must be, in error messages.
const PEM_FILE: &str = "the path of a readable PEM file with certificates";

type Tcp = hyper_util::client::legacy::connect::HttpConnector;

/// Keeps connections open for later requests. Clones share them.
#[derive(Clone, Debug)]
struct Http1(Client<InTime<HttpsConnector<Tcp>>, SdkBody>);

/// A connector of its own connections, which trusts the roots that the environment names, or else those compiled in.
///
/// # Errors
/// The file of roots cannot be read, or has no certificate.
pub(super) fn connector(var: impl Fn(&str) -> Option<String>) -> Result<SharedHttpConnector, ConfigProblem> {
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has what both versions of TLS need")
        .with_root_certificates(roots(var)?)
        .with_no_client_auth();
    let mut tcp = Tcp::new();
    tcp.set_nodelay(true);
    // The scheme is for the connector around it to judge.
    tcp.enforce_http(false);
    let either = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    // Without a timer, connections that DynamoDB has long closed would stay.
    let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(InTime(either));
    Ok(SharedHttpConnector::new(Http1(client)))
}

fn roots(var: impl Fn(&str) -> Option<String>) -> Result<RootCertStore, ConfigProblem> {
    let Some((name, path)) = BUNDLES.iter().find_map(|name| Some((*name, var(name)?))) else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).unwrap_or_default();
    let mut roots = RootCertStore::empty();
    // Bundles have certificates that are too old for `rustls`, next to the ones that are needed.
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(ConfigProblem::invalid(name, PEM_FILE)),
        _ => Ok(roots),
    }
}

/// Opens a connection to this address, which the next request takes. It asks for the page on which DynamoDB says that it is well:
/// without a signature, a permission or a cost. Whatever is answered, the connection is there; if it fails, the next request shows why.
pub(super) async fn open(connector: SharedHttpConnector, address: String) {
    let opened = async {
        let mut request = HttpRequest::new(SdkBody::empty());
        request.set_uri(address)?;
        let mut body = ByteStream::new(connector.call(request).await?.into_body());
        // A connection is free once its answer is read.
        while body.try_next().await?.is_some() {}
        Ok::<_, BoxError>(())
    };
    if !matches!(tokio::time::timeout(ATTEMPT_TIMEOUT, opened).await, Ok(Ok(()))) {
        tracing::debug!("no connection was opened in advance");
    }
}

impl HttpConnector for Http1 {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };
        let connection = capture_connection(&mut request);
        if let Some(captured) = request.extensions().get::<CaptureSmithyConnection>() {
            captured.set_connection_retriever(move || Some(retired_on_demand(connection.clone())));
        }
        let answer = self.0.request(request);
        HttpConnectorFuture::new(async move {
            let answer =
                answer.await.map_err(|error| if in_time(&error) { ConnectorError::io } else { ConnectorError::timeout }(error.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x)).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// The SDK takes a connection out of use whose server answered that it is unwell.
fn retired_on_demand(connection: CaptureConnection) -> ConnectionMetadata {
    let retire = move || {
        if let Some(connected) = connection.connection_metadata().as_ref() {
            connected.poison();
        }
    };
    ConnectionMetadata::builder().proxied(false).poison_fn(retire).build()
}

fn in_time(error: &(dyn Error + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |error| (*error).source());
    !chain.any(<dyn Error>::is::<Elapsed>)
}

/// Connects within [`CONNECT_TIMEOUT`], TLS included.
#[derive(Clone, Debug)]
struct InTime<C>(C);

impl<C> Service<http::Uri> for InTime<C>
where
    C: Service<http::Uri, Error = BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, address: http::Uri) -> Self::Future {
        let connected = self.0.call(address);
        Box::pin(async move { tokio::time::timeout(CONNECT_TIMEOUT, connected).await? })
    }
}
