//! Valid histories of the domains that these projections are about.

use projection_vocabulary::{
    AggregateId, Decimal, Value,
    sample::{Fact, Pick, Sample},
};

/// Every domain that `projector generate` knows; the first is the default.
pub const ALL: &[Sample] = &[
    Sample { name: "bank", facts: bank }, //
    Sample { name: "forum", facts: forum },
];

/// An account's amounts are whole cents below this.
const AMOUNT_CENTS_MAX: u64 = 100_000;

fn bank(pick: &mut Pick<'_>, facts: usize, accounts: usize) -> Vec<Fact> {
    /// What an account holds, in cents, while it is open. A closed one gives its place to another.
    struct Account {
        id: AggregateId,
        cents: Option<u64>,
    }

    let mut opened = 0;
    let mut fresh = || {
        opened += 1;
        Account { id: format!("account-{opened:06}").as_str().into(), cents: None }
    };
    let mut open: Vec<Account> = (0..accounts.max(1)).map(|_| fresh()).collect();
    let mut history = Vec::with_capacity(facts);
    while history.len() < facts {
        let at = below(pick, open.len());
        let account = &mut open[at];
        let amount = 1 + pick(AMOUNT_CENTS_MAX);
        let (event_type, data) = match (account.cents, pick(100)) {
            (None, _) => {
                account.cents = Some(amount);
                ("AccountOpened", fields([("initialDeposit", dollars(amount))]))
            }
            (Some(0), 0..50) => {
                let closed = std::mem::replace(account, fresh());
                history.push(Fact { aggregate: closed.id, event_type: "AccountClosed", data: fields([]) });
                continue;
            }
            (Some(cents), 0..40) if cents > 0 => {
                let amount = amount.min(cents);
                account.cents = Some(cents - amount);
                ("MoneyWithdrawn", fields([("amount", dollars(amount))]))
            }
            (Some(cents), _) => {
                account.cents = Some(cents + amount);
                ("MoneyDeposited", fields([("amount", dollars(amount))]))
            }
        };
        history.push(Fact { aggregate: account.id.clone(), event_type, data });
    }
    history
}

fn forum(pick: &mut Pick<'_>, facts: usize, aggregates: usize) -> Vec<Fact> {
    struct Topic {
        id: AggregateId,
        category: Option<usize>,
        posts: Vec<u64>,
    }

    let categories = (aggregates / 20).max(2);
    let category_id = |at: usize| format!("category-{:04}", at + 1);
    let mut created = vec![false; categories];
    let (mut topics_made, mut posts_made) = (0, 0);
    let mut fresh = || {
        topics_made += 1;
        Topic { id: format!("topic-{topics_made:06}").as_str().into(), category: None, posts: Vec::new() }
    };
    let mut topics: Vec<Topic> = (0..aggregates.saturating_sub(categories).max(1)).map(|_| fresh()).collect();
    let mut history = Vec::with_capacity(facts);
    while history.len() < facts {
        let (topic_at, category_at) = (below(pick, topics.len()), below(pick, categories));
        if !created[category_at] {
            created[category_at] = true;
            let name = format!("Category {}", category_at + 1);
            let data = fields([("name", name.into()), ("description", "What people say".into())]);
            history.push(Fact { aggregate: category_id(category_at).as_str().into(), event_type: "CategoryCreated", data });
            continue;
        }
        let topic = &mut topics[topic_at];
        let author = format!("author-{}", 1 + pick(50));
        let (event_type, data) = match (topic.category, pick(100)) {
            (None, _) => {
                topic.category = Some(category_at);
                let title = format!("About {}", topic.id);
                (
                    "TopicCreated",
                    fields([("categoryId", category_id(category_at).into()), ("title", title.into()), ("authorId", author.into())]),
                )
            }
            (Some(category), 0..5) => {
                topic.category = Some(category_at);
                (
                    "TopicMoved",
                    fields([("fromCategoryId", category_id(category).into()), ("toCategoryId", category_id(category_at).into())]),
                )
            }
            (Some(category), 5..7) => {
                let deleted = std::mem::replace(topic, fresh());
                let data = fields([("categoryId", category_id(category).into())]);
                history.push(Fact { aggregate: deleted.id, event_type: "TopicDeleted", data });
                continue;
            }
            (Some(category), 7..20) if !topic.posts.is_empty() => {
                let post = topic.posts.swap_remove(below(pick, topic.posts.len()));
                ("PostRemoved", fields([("postId", format!("post-{post}").into()), ("categoryId", category_id(category).into())]))
            }
            (Some(category), _) => {
                posts_made += 1;
                topic.posts.push(posts_made);
                let post = format!("post-{posts_made}");
                ("PostAdded", fields([("postId", post.into()), ("authorId", author.into()), ("categoryId", category_id(category).into())]))
            }
        };
        history.push(Fact { aggregate: topic.id.clone(), event_type, data });
    }
    history
}

fn below(pick: &mut Pick<'_>, bound: usize) -> usize {
    usize::try_from(pick(bound as u64)).expect("less than a usize")
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn dollars(cents: u64) -> Value {
    let amount: Decimal = format!("{}.{:02}", cents / 100, cents % 100).parse().expect("cents make a decimal");
    amount.into()
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{Rows, sample::record};

    use super::ALL;

    #[test]
    fn every_fact_of_every_sample_is_applied_by_the_projections_it_concerns() {
        for sample in ALL {
            let mut state = 7_u64;
            let mut pick = |bound| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % bound
            };
            let facts = (sample.facts)(&mut pick, 2_000, 60);
            assert_eq!(facts.len(), 2_000);
            let kinds: std::collections::BTreeSet<_> = facts.iter().map(|fact| fact.event_type).collect();
            for rule in crate::ALL {
                let mut rows = Rows::default();
                for event in record(facts.clone()) {
                    rows.fold(*rule, &event).expect("a valid event");
                }
                let concerned = rule.event_types().iter().any(|name| kinds.contains(name));
                assert_eq!(rows.home.is_empty(), !concerned);
                assert!(
                    !concerned || rule.event_types().iter().all(|name| kinds.contains(name)),
                    "{} makes every kind of event",
                    sample.name
                );
            }
        }
    }
}
