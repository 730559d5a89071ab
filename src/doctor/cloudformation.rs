//! A CloudFormation template as a document: YAML or JSON, with its functions resolved as far as possible without an account.
//!
//! The names of resources are unknown before deployment. A text refers to them as `${Table.StreamArn}`, and the same reference always
//! means the same resource. A function that cannot be resolved stays unchanged: an object with one member, `Ref`, `Condition` or `Fn::...`
//! (<https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html>).

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use serde_json::{Map, Value as Json};

use super::{
    Unusable,
    yaml::{self, size_of},
};

/// How deeply functions may be nested.
const DEPTH_MAX: u32 = 64;
/// Twice what CloudFormation accepts
/// (<https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html>).
const RESOURCES_MAX: usize = 1_000;
/// The largest size of the resources once their functions are resolved: nodes and bytes of text. Nested substitutions double a text
/// with each level, so the size of the template bounds nothing.
const RESOLVED_MAX: usize = 16 * yaml::BYTES_MAX;
/// The parameter that means "no value".
const NO_VALUE: &str = "AWS::NoValue";

/// A template and the values of its parameters.
pub struct Document {
    root: Json,
    parameters: BTreeMap<String, Json>,
    /// Conditions by name, once evaluated; unknown while they are being evaluated, which ends a cycle.
    conditions: RefCell<BTreeMap<String, Option<bool>>>,
    /// What is left of [`RESOLVED_MAX`].
    left: Cell<usize>,
}

/// A resource, with its functions resolved.
pub struct Resource {
    /// Its logical id.
    pub id: String,
    /// Its type: `AWS::DynamoDB::Table`.
    pub kind: String,
    /// Its properties; null if it has none.
    pub properties: Json,
}

impl Document {
    /// Reads a template, with these values for its parameters.
    ///
    /// # Errors
    /// It is neither YAML nor JSON, is not a template, or lacks one of the parameters.
    pub fn read(text: &str, given: &[(String, String)]) -> Result<Self, Unusable> {
        let root = yaml::read(text).map_err(Unusable)?;
        match root["Resources"].as_object() {
            None => return Err(Unusable("is not a CloudFormation template: it has no Resources".to_owned())),
            Some(resources) if resources.len() > RESOURCES_MAX => {
                return Err(Unusable(format!("has more than {RESOURCES_MAX} resources, which CloudFormation refuses")));
            }
            Some(_) => {}
        }
        let mut parameters = BTreeMap::new();
        for (name, parameter) in root["Parameters"].as_object().into_iter().flatten() {
            let default = parameter.get("Default").cloned();
            let given = given.iter().find(|(given, _)| given == name).map(|(_, value)| Json::from(value.as_str()));
            let is_list = parameter["Type"].as_str().is_some_and(|kind| kind == "CommaDelimitedList" || kind.starts_with("List<"));
            if let Some(value) = given.or(default) {
                parameters.insert(name.clone(), if is_list { listed(&value) } else { value });
            }
        }
        if let Some((unknown, _)) = given.iter().find(|(name, _)| root["Parameters"].get(name).is_none()) {
            return Err(Unusable(format!("has no parameter `{unknown}`")));
        }
        Ok(Self { root, parameters, conditions: RefCell::default(), left: Cell::new(RESOLVED_MAX) })
    }

    /// A section of the template as it is written, with its functions in their long form; null if there is none.
    #[must_use]
    pub fn section(&self, name: &str) -> &Json {
        &self.root[name]
    }

    /// The resources to be created. Those of the serverless transform include its globals.
    ///
    /// # Errors
    /// They are too large.
    pub fn resources(&self) -> Result<Vec<Resource>, Unusable> {
        let mut resources = Vec::new();
        for (id, resource) in self.root["Resources"].as_object().into_iter().flatten() {
            let Some(kind) = resource["Type"].as_str() else { continue };
            if resource["Condition"].as_str().is_some_and(|condition| self.condition(condition) == Some(false)) {
                continue;
            }
            let globals = kind.strip_prefix("AWS::Serverless::").map(|kind| &self.root["Globals"][kind]);
            let properties = merged(globals.unwrap_or(&Json::Null), &resource["Properties"]);
            let properties = self.resolved(&properties, DEPTH_MAX).unwrap_or_default();
            if self.left.get() == 0 {
                return Err(Unusable("becomes too large when its functions are resolved".to_owned()));
            }
            resources.push(Resource { id: id.clone(), kind: kind.to_owned(), properties });
        }
        Ok(resources)
    }

    /// The value, if what is left allows for its size.
    fn within_limit(&self, value: Json) -> Option<Json> {
        self.left.set(self.left.get().saturating_sub(size_of(&value)));
        (self.left.get() > 0).then_some(value)
    }

    /// The value with its functions resolved as far as possible; `None` for no value.
    fn resolved(&self, value: &Json, depth: u32) -> Option<Json> {
        let Some(depth) = depth.checked_sub(1) else { return self.within_limit(value.clone()) };
        match value {
            Json::Array(values) => Some(values.iter().filter_map(|value| self.resolved(value, depth)).collect()),
            Json::Object(members) => match function_of(members) {
                Some(("Ref", Json::String(name))) if name == NO_VALUE => None,
                Some(("Fn::If", argument)) => match self.branch(argument) {
                    Some(branch) => self.resolved(branch, depth),
                    None => self.within_limit(value.clone()),
                },
                Some((name, argument)) => self.within_limit(self.call(name, argument, depth).unwrap_or_else(|| value.clone())),
                None => {
                    let members = members.iter().filter_map(|(name, value)| Some((name.clone(), self.resolved(value, depth)?)));
                    Some(Json::Object(members.collect()))
                }
            },
            plain => self.within_limit(plain.clone()),
        }
    }

    /// The value of a function; `None` if it cannot be resolved.
    fn call(&self, name: &str, argument: &Json, depth: u32) -> Option<Json> {
        let list = |argument: &Json| match self.resolved(argument, depth)? {
            Json::Array(values) => Some(values),
            _ => None,
        };
        match name {
            "Ref" => self.named(argument.as_str()?),
            "Fn::GetAtt" => {
                let path = match argument {
                    // The form of YAML's short tag is also accepted after the long name.
                    Json::String(path) => path.clone(),
                    argument => list(argument)?.iter().map(Json::as_str).collect::<Option<Vec<_>>>()?.join("."),
                };
                Some(format!("${{{path}}}").into())
            }
            "Fn::Sub" => match argument {
                Json::String(text) => self.substituted(text, &Map::new()),
                Json::Array(parts) => {
                    let [Json::String(text), Json::Object(own)] = parts.as_slice() else { return None };
                    let own = own.iter().filter_map(|(name, value)| Some((name.clone(), self.resolved(value, depth)?)));
                    self.substituted(text, &own.collect())
                }
                _ => None,
            },
            "Fn::Join" => {
                let [separator, values] = <[Json; 2]>::try_from(list(argument)?).ok()?;
                let texts = values.as_array()?.iter().map(text_of).collect::<Option<Vec<_>>>()?;
                // Measured before it is built.
                let separator = separator.as_str()?;
                (separator.len().saturating_mul(texts.len()) < self.left.get()).then(|| texts.join(separator).into())
            }
            "Fn::Select" => {
                let [index, values] = <[Json; 2]>::try_from(list(argument)?).ok()?;
                values.get(usize::try_from(integer(&index)?).ok()?).filter(|value| function_in(value).is_none()).cloned()
            }
            "Fn::FindInMap" => {
                let [map, first, second] = <[Json; 3]>::try_from(list(argument)?).ok()?;
                self.root["Mappings"].get(map.as_str()?)?.get(text_of(&first)?)?.get(text_of(&second)?).cloned()
            }
            _ => None,
        }
    }

    /// What a name refers to: the value of a parameter, or a reference to a resource.
    fn named(&self, name: &str) -> Option<Json> {
        match self.parameters.get(name) {
            Some(value) => Some(value.clone()),
            None if self.root["Parameters"].get(name).is_some() => None,
            None => Some(format!("${{{name}}}").into()),
        }
    }

    /// A text with its `${...}` replaced.
    fn substituted(&self, text: &str, own: &Map<String, Json>) -> Option<Json> {
        let mut parts = text.split("${");
        let mut done = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}')?;
            match name.strip_prefix('!') {
                Some(literal) => done.extend(["${", literal, "}"]),
                None => done.push_str(&own.get(name).map_or_else(|| self.named(name).as_ref().and_then(text_of), text_of)?),
            }
            done.push_str(rest);
            if done.len() > self.left.get() {
                self.left.set(0);
                return None;
            }
        }
        Some(done.into())
    }

    /// The branch that the condition selects.
    fn branch<'a>(&self, argument: &'a Json) -> Option<&'a Json> {
        let [condition, yes, no] = argument.as_array()?.as_slice() else { return None };
        Some(if self.condition(condition.as_str()?)? { yes } else { no })
    }

    fn condition(&self, name: &str) -> Option<bool> {
        if let Some(known) = self.conditions.borrow().get(name) {
            return *known;
        }
        self.conditions.borrow_mut().insert(name.to_owned(), None);
        let holds = self.holds(self.root["Conditions"].get(name)?, DEPTH_MAX);
        self.conditions.borrow_mut().insert(name.to_owned(), holds);
        holds
    }

    /// Whether a condition holds; `None` if that cannot be determined.
    fn holds(&self, condition: &Json, depth: u32) -> Option<bool> {
        let depth = depth.checked_sub(1)?;
        let (name, argument) = function_in(condition)?;
        let all = || argument.as_array().into_iter().flatten().map(|each| self.holds(each, depth)).collect::<Vec<_>>();
        // A single false, or true, decides even if the others cannot be determined.
        let unless_any = |decides: bool| {
            let all = all();
            if all.contains(&Some(decides)) { Some(decides) } else { (!all.contains(&None)).then_some(!decides) }
        };
        match name {
            "Condition" => self.condition(argument.as_str()?),
            "Fn::Not" => Some(!(*all().first()?)?),
            "Fn::And" => unless_any(false),
            "Fn::Or" => unless_any(true),
            "Fn::Equals" => {
                let [one, other] = argument.as_array()?.as_slice() else { return None };
                let known = |value| text_of(&self.resolved(value, depth)?).filter(|text| !text.contains("${"));
                Some(known(one)? == known(other)?)
            }
            _ => None,
        }
    }
}

/// The function that an object represents, and its argument.
fn function_of(members: &Map<String, Json>) -> Option<(&str, &Json)> {
    let (name, argument) = members.iter().next().filter(|_| members.len() == 1)?;
    (name == "Ref" || name == "Condition" || name.starts_with("Fn::")).then_some((name.as_str(), argument))
}

/// The function that a value represents, if it is one: it could not be resolved.
#[must_use]
pub fn function_in(value: &Json) -> Option<(&str, &Json)> {
    function_of(value.as_object()?)
}

/// A scalar as a text.
#[must_use]
pub fn text_of(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(bool) => Some(bool.to_string()),
        _ => None,
    }
}

/// A whole number, as CloudFormation reads it.
#[must_use]
pub fn integer(value: &Json) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// The values of a list parameter.
fn listed(value: &Json) -> Json {
    match value {
        Json::String(text) => text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect(),
        other => other.clone(),
    }
}

/// The members of both, at any depth; if both have a member, that of the second.
fn merged(globals: &Json, own: &Json) -> Json {
    match (globals, own) {
        (Json::Object(globals), Json::Object(own)) if function_of(globals).is_none() && function_of(own).is_none() => {
            let mut all = globals.clone();
            for (name, value) in own {
                let value = merged(globals.get(name).unwrap_or(&Json::Null), value);
                all.insert(name.clone(), value);
            }
            Json::Object(all)
        }
        (globals, Json::Null) => globals.clone(),
        (_, own) => own.clone(),
    }
}
