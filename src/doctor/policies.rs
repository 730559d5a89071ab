//! What the policies of a template allow a function to do, as far as a template shows.
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html>

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::{Setting, cloudformation::function_in};

/// A resource that a statement may name: the forms in which it may be written.
pub struct Target {
    /// Its ARN as a reference: `${EventStoreTable.Arn}`, for an index with `/index/NAME` behind it.
    pub reference: String,
    /// The end of its ARN: `table/NAME`, with the index behind it. The name of a table without a fixed one is a reference.
    pub ends: Vec<String>,
}

/// Policies that say nothing of tables' items.
const WITHOUT_ITEMS: [&str; 5] = [
    "AWSLambdaBasicExecutionRole",
    "AWSLambdaDynamoDBExecutionRole",
    "AWSLambdaVPCAccessExecutionRole",
    "AWSXRayDaemonWriteAccess",
    "CloudWatchLambdaInsightsExecutionRolePolicy",
];

/// The policies of a role.
#[derive(Default)]
pub struct Policies {
    documents: Vec<Json>,
    /// Whether there are others, which cannot be read.
    others: bool,
}

impl Policies {
    /// Adds a document.
    pub fn add(&mut self, document: &Json) {
        if document["Statement"].is_null() || function_in(document).is_some() {
            self.others = true;
        } else {
            self.documents.push(document.clone());
        }
    }

    /// Adds a policy of AWS or of the account, by its name or ARN.
    pub fn add_named(&mut self, policy: &Json) {
        let known = policy.as_str().and_then(|policy| policy.rsplit('/').next()).is_some_and(|name| WITHOUT_ITEMS.contains(&name));
        self.others |= !known;
    }

    /// Adds a policy template of the serverless transform. Only those of DynamoDB say anything of tables
    /// (<https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/serverless-policy-template-list.html>).
    pub fn add_of_transform(&mut self, name: &str, parameters: &Json) {
        let actions: &[&str] = match name {
            "DynamoDBCrudPolicy" => {
                &["dynamodb:GetItem", "dynamodb:DeleteItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem"]
            }
            "DynamoDBWritePolicy" => &["dynamodb:PutItem", "dynamodb:UpdateItem"],
            "DynamoDBReadPolicy" => &["dynamodb:GetItem", "dynamodb:Query"],
            _ => &[],
        };
        match parameters["TableName"].as_str() {
            Some(table) if !actions.is_empty() => {
                let arn = format!("arn:aws:dynamodb:*:*:table/{table}");
                let resources = [arn.clone(), format!("{arn}/index/*")];
                self.add(&json!({ "Statement": { "Effect": "Allow", "Action": actions, "Resource": resources } }));
            }
            _ => self.others |= name.starts_with("DynamoDB"),
        }
    }

    /// Adds something that cannot be read.
    pub fn add_unknown(&mut self) {
        self.others = true;
    }

    /// Those of the wanted that are allowed; unseen if others may be allowed by what cannot be read.
    pub fn allowed<T: Copy + Ord>(&self, wanted: &[(T, &str, Target)]) -> Setting<BTreeSet<T>> {
        let (mut allowed, mut unknown) = (BTreeSet::new(), self.others);
        for (what, action, target) in wanted {
            let (mut allows, mut denies) = (false, false);
            for statement in self.documents.iter().flat_map(|document| list(&document["Statement"])) {
                let Some(applies) = applies(statement, action, target) else {
                    unknown = true;
                    continue;
                };
                // A condition may hold or not.
                match (applies, statement["Effect"].as_str(), statement["Condition"].is_null()) {
                    (false, ..) => {}
                    (true, Some("Allow"), true) => allows = true,
                    (true, Some("Deny"), true) => denies = true,
                    _ => unknown = true,
                }
            }
            if allows && !denies {
                allowed.insert(*what);
            }
        }
        if unknown && allowed.len() < wanted.len() {
            return Setting::Unseen("its role has policies or conditions that cannot be judged from the template alone".to_owned());
        }
        Setting::Value(allowed)
    }
}

/// Whether a statement is about an action on a resource; `None` if that cannot be determined.
fn applies(statement: &Json, action: &str, target: &Target) -> Option<bool> {
    if !statement["NotAction"].is_null() || !statement["NotResource"].is_null() {
        return None;
    }
    let any = |values: &Json, matches: &dyn Fn(&str) -> bool| {
        // One that is not known may be what is wanted.
        let mut unknown = false;
        for value in list(values) {
            match value.as_str() {
                Some(text) if matches(text) => return Some(true),
                Some(_) => {}
                None => unknown = true,
            }
        }
        (!unknown).then_some(false)
    };
    let of_action = any(&statement["Action"], &|pattern| glob(&pattern.to_lowercase(), &action.to_lowercase()))?;
    if !of_action {
        return Some(false);
    }
    any(&statement["Resource"], &|pattern| target.is(pattern))
}

impl Target {
    fn is(&self, pattern: &str) -> bool {
        if glob(pattern, &self.reference) {
            return true;
        }
        // arn:aws:dynamodb:REGION:ACCOUNT:table/NAME: the region and the account are those of the stack.
        pattern.starts_with("arn:")
            && pattern.contains(":dynamodb:")
            && pattern.rsplit(':').next().is_some_and(|end| self.ends.iter().any(|name| glob(end, name)))
    }
}

fn list(value: &Json) -> impl Iterator<Item = &Json> {
    match value {
        Json::Array(values) => values.iter(),
        Json::Null => [].iter(),
        one => std::slice::from_ref(one).iter(),
    }
}

/// Whether a text matches a pattern with `*` and `?`.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<_>, Vec<_>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < text.len() {
        if at < pattern.len() && pattern[at] == '*' {
            star = Some((at, read));
            at += 1;
        } else if at < pattern.len() && (pattern[at] == '?' || pattern[at] == text[read]) {
            at += 1;
            read += 1;
        } else if let Some((before, from)) = star {
            star = Some((before, from + 1));
            at = before + 1;
            read = from + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_those_of_iam() {
        for (pattern, text) in
            [("*", ""), ("*", "x"), ("dynamodb:*Item", "dynamodb:PutItem"), ("a?c", "abc"), ("a*b*c", "a-b-b-c"), ("ab**", "ab")]
        {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("", "x"), ("a?c", "ac"), ("dynamodb:*Item", "dynamodb:Query"), ("a*b", "a-b-c"), ("ab", "abc")] {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }

    fn judged(statements: &Json) -> Setting<bool> {
        let document = json!({ "Statement": statements });
        let mut policies = Policies::default();
        policies.add(&document);
        let target = Target { reference: "${Events.Arn}".to_owned(), ends: vec!["table/${Events}".to_owned(), "table/events".to_owned()] };
        policies.allowed(&[((), "dynamodb:PutItem", target)]).and_then(|allowed| Setting::Value(!allowed.is_empty()))
    }

    #[test]
    fn a_statement_is_read_as_iam_reads_it() {
        let unseen = Setting::Unseen("its role has policies or conditions that cannot be judged from the template alone".to_owned());
        let put = "dynamodb:PutItem";
        for (statements, expected) in [
            (json!([]), Setting::Value(false)),
            (json!({ "Effect": "Allow", "Action": put, "Resource": "${Events.Arn}" }), Setting::Value(true)),
            (json!([{ "Effect": "Allow", "Action": ["DynamoDB:put*"], "Resource": ["${Other.Arn}", "*"] }]), Setting::Value(true)),
            (json!([{ "Effect": "Allow", "Action": "*", "Resource": "arn:aws:dynamodb:*:*:table/ev*" }]), Setting::Value(true)),
            (json!([{ "Effect": "Allow", "Action": put, "Resource": "arn:aws:dynamodb:eu:1:table/${Events}" }]), Setting::Value(true)),
            (json!([{ "Effect": "Allow", "Action": put, "Resource": "arn:aws:s3:::events" }]), Setting::Value(false)),
            (json!([{ "Effect": "Allow", "Action": put, "Resource": "${Events.Arn}/index/*" }]), Setting::Value(false)),
            (json!([{ "Effect": "Allow", "Action": "dynamodb:Get*", "Resource": "*" }]), Setting::Value(false)),
            (
                json!([{ "Effect": "Allow", "Action": put, "Resource": "*" }, { "Effect": "Deny", "Action": "dynamodb:*", "Resource": "*" }]),
                Setting::Value(false),
            ),
            (json!([{ "Effect": "Allow", "NotAction": "s3:*", "Resource": "*" }]), unseen.clone()),
            (json!([{ "Effect": "Allow", "Action": put, "Resource": { "Fn::ImportValue": "table" } }]), unseen.clone()),
            (json!([{ "Effect": "Allow", "Action": put, "Resource": "*", "Condition": { "Bool": {} } }]), unseen.clone()),
            (json!([{ "Effect": "Allow", "Action": { "Ref": "Actions" }, "Resource": "*" }]), unseen),
        ] {
            assert_eq!(judged(&statements), expected, "{statements}");
        }
    }
}
