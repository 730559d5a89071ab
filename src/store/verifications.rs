//! Verifications that are not finished, kept in the parking table so that another invocation can go on.
//!
//! | attribute | holds |
//! |---|---|
//! | `aggregateId` | `verify#<projection>`: partition key |
//! | `projection` | `verification#<table>`: sort key |
//! | `run` | the id of the verification |
//! | `revision` | the revision of the rule by which it verifies |
//! | `progress` | how far it has come, as JSON, with values of rows |
//! | `savedAt` | when it was saved |
//!
//! A table has one such item: a verification that is begun later takes the place of one that was given up. It has no `reason`, so lists
//! of parked entries skip it.

use aws_sdk_dynamodb::{
    operation::{get_item::GetItemInput, put_item::PutItemInput},
    types::AttributeValue,
};
use projection_vocabulary::DynProjection;

use super::{Store, StoreError, fresh_id, now};
use crate::{
    retry::Deadline,
    store::item::{SdkItem, number_of, text_of},
};

/// What is saved of a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SavedVerification {
    /// How far it has come, as it was saved.
    Progress(String),
    /// Nothing, or by another revision of the rule.
    Lost,
    /// Another verification has taken its place.
    Replaced,
}

impl Store {
    /// Saves how far a verification has come. `run` identifies it; `None` for one that was not saved before. Returns its id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn save_verification(
        &self,
        rule: &dyn DynProjection,
        run: Option<String>,
        progress: &str,
        deadline: Deadline,
    ) -> Result<String, StoreError> {
        let run = run.unwrap_or_else(fresh_id);
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let mut item = self.verification_key(rule);
        item.extend([
            ("run".to_owned(), text(&run)),
            ("revision".to_owned(), AttributeValue::N(rule.revision().to_string())),
            ("progress".to_owned(), text(progress)),
            ("savedAt".to_owned(), text(now().as_str())),
        ]);
        let put = || self.dynamo.put_item(PutItemInput::builder().table_name(&self.names.parked).set_item(Some(item.clone())));
        self.send("PutItem of a verification", deadline, put).await?;
        Ok(run)
    }

    /// How far the verification with this id has come.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn saved_verification(
        &self,
        rule: &dyn DynProjection,
        run: &str,
        deadline: Deadline,
    ) -> Result<SavedVerification, StoreError> {
        let key = self.verification_key(rule);
        let get = || {
            let request = GetItemInput::builder().table_name(&self.names.parked).set_key(Some(key.clone()));
            self.dynamo.get_item(request.consistent_read(true))
        };
        let item = self.send("GetItem of a verification", deadline, get).await?.item.unwrap_or_default();
        let is_current = number_of(&item, "revision") == Some(u64::from(rule.revision()));
        Ok(match (text_of(&item, "run"), text_of(&item, "progress")) {
            (Some(saved), _) if is_current && saved != run => SavedVerification::Replaced,
            (Some(_), Some(progress)) if is_current => SavedVerification::Progress(progress.to_owned()),
            _ => SavedVerification::Lost,
        })
    }

    fn verification_key(&self, rule: &dyn DynProjection) -> SdkItem {
        let (partition, sort) = (format!("verify#{}", rule.name()), format!("verification#{}", self.table_of(rule)));
        SdkItem::from([("aggregateId".into(), AttributeValue::S(partition)), ("projection".into(), AttributeValue::S(sort))])
    }
}
