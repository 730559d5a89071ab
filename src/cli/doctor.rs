//! `projector doctor`: checks a deployment for settings that would lose or delay events.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::{Args, builder::PossibleValuesParser};
use projection_vocabulary::Registry;
use serde_json::json;

use super::{
    Context, EXIT_FINDINGS, EXIT_OK, StoreOptions,
    format::Format,
    pretty_json, terminal,
    text::{Lines, count_of, printable},
};
use crate::{
    clients,
    doctor::{self, Deployment, Examination, Finding, checks, deployed, examine, template},
};

/// What to examine.
#[derive(Args)]
pub struct Options {
    /// A CloudFormation or SAM template, YAML or JSON
    #[arg(value_name = "TEMPLATE", required_unless_present = "function")]
    template: Option<PathBuf>,
    /// The worker's function: its name on AWS, or its logical id in a template that has several
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// The value of a parameter of the template
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = named, requires = "template")]
    parameters: Vec<(String, String)>,
    /// Accept findings of this check: the setting is intentional
    #[arg(long, value_name = "CHECK", value_parser = PossibleValuesParser::new(checks().map(|check| check.name)), hide_possible_values = true)]
    allow: Vec<String>,
    #[command(flatten)]
    format: Format,
}

fn named(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "write NAME=VALUE".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

/// `doctor`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let deployment = match &options.template {
        Some(_) if cx.store.is_remote() => bail!("a template is checked offline: omit --aws and --endpoint-url"),
        Some(path) => {
            let text = template_text(path).with_context(|| format!("cannot read {}", path.display()))?;
            template::read(&text, &options.parameters, options.function.as_deref(), cx.registry)
                .map_err(|error| anyhow::anyhow!("{} {error}", path.display()))?
        }
        None => of_aws(options.function.as_deref().unwrap_or_default(), &cx.store, cx.registry).await?,
    };
    let mut examination = examine(&deployment, cx.registry);
    examination.findings.retain(|finding| !options.allow.iter().any(|allowed| allowed == finding.check.name));
    cx.out.text(&if options.format.is_json() { lines_of_json(&examination)? } else { lines(&deployment, &examination) });
    Ok(if examination.findings.is_empty() { EXIT_OK } else { EXIT_FINDINGS })
}

/// The text of a file, or more of it than a template may have.
fn template_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(doctor::BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    // The end may be cut off in the middle of a character; it is refused for its length.
    let is_cut = bytes.len() > doctor::BYTES_MAX;
    match String::from_utf8(bytes) {
        Err(error) if is_cut => Ok(String::from_utf8_lossy(error.as_bytes()).into_owned()),
        text => text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not text in UTF-8")),
    }
}

async fn of_aws(function: &str, store_options: &StoreOptions, registry: Registry) -> anyhow::Result<Deployment> {
    let (lambda, dynamodb) = if let Some(url) = &store_options.endpoint_url {
        let clients = clients::lambda_of_endpoint(url).and_then(|lambda| Ok((lambda, clients::of_endpoint(url)?)));
        clients.map_err(anyhow::Error::msg)?
    } else if store_options.aws {
        (clients::lambda_of_credential_chain().await, clients::of_credential_chain().await)
    } else {
        bail!("name the function's location: --aws, or --endpoint-url of an emulator; or name a template");
    };
    Ok(deployed::read(&lambda, &dynamodb, function, registry).await?)
}

/// Of the second and later lines of a paragraph.
const INDENT: &str = "    ";

fn lines(deployment: &Deployment, examination: &Examination) -> String {
    let columns = terminal::columns();
    let mut lines = Lines::default();
    let mut paragraph = |first: &str, words: &str| lines.paragraph(first, &printable(words), INDENT, columns);
    for Finding { check, subject, found } in &examination.findings {
        paragraph("", &format!("{} {}: {subject} {found}", check.severity, check.name));
        paragraph("  why: ", check.why);
        paragraph("  fix: ", check.fix);
    }
    for (subject, why) in &examination.unseen {
        paragraph("", &format!("unknown: {subject}: {why}"));
    }
    let Examination { findings, unseen, judged } = examination;
    let unknown = if unseen.is_empty() { String::new() } else { format!(", {} unknown", unseen.len()) };
    let (worker, settings, found) = (&deployment.function.name, count_of(*judged, "setting"), count_of(findings.len(), "finding"));
    paragraph("", &format!("{worker}: {settings} checked{unknown}; {found}"));
    lines.into_text()
}

fn lines_of_json(examination: &Examination) -> anyhow::Result<String> {
    let mut text = String::new();
    for Finding { check, subject, found } in &examination.findings {
        let line = json!({
            "severity": check.severity.to_string(), "check": check.name, "subject": subject, "found": found, "why": check.why,
            "fix": check.fix,
        });
        writeln!(text, "{}", pretty_json::line(&line)?)?;
    }
    let Examination { findings, unseen, judged } = examination;
    let total = json!({ "total": { "findings": findings.len(), "judged": judged, "notJudged": unseen } });
    writeln!(text, "{}", pretty_json::line(&total)?)?;
    Ok(text)
}
