//! Policies. What is not understood refuses the whole policy: a part left out could allow what was denied.

use ipnet::IpNet;
use prost::Message;
use weft_model::{
    Action, Authorization, Clause, Field, Match, Namespace, PolicyName, Rule, Scope,
    ServiceAccountMatch, ServiceAccountName, StringMatch,
};

use super::{
    Encoded, ResourceType,
    encoded::FoundBy,
    error::{Bad, DecodeError, Problem},
    wire,
};
use crate::proto::security as pb;

/// `unread`: how many bytes of the resource are of fields that we do not know.
pub(super) fn decode(
    message: &pb::Authorization,
    unread: usize,
) -> Result<Authorization, DecodeError> {
    let name = format!("{}/{}", message.namespace, message.name);
    if unread > 0 {
        return Err(Bad::new("body", Problem::UnknownField { bytes: unread }).of(&name));
    }
    fields(message).map_err(|bad| bad.of(&name))
}

fn fields(m: &pb::Authorization) -> Result<Authorization, Bad> {
    Ok(Authorization {
        name: wire::name("name", PolicyName::new(&m.namespace, &m.name))?,
        scope: match wire::known("scope", m.scope)? {
            pb::Scope::Global => Scope::Global,
            pb::Scope::Namespace => Scope::Namespace,
            pb::Scope::WorkloadSelector => Scope::Workload,
        },
        action: match wire::known("action", m.action)? {
            pb::Action::Allow => Action::Allow,
            pb::Action::Deny => Action::Deny,
        },
        rules: m.rules.iter().map(rule).collect::<Result<_, _>>()?,
        dry_run: m.dry_run,
    })
}

fn rule(m: &pb::Rule) -> Result<Rule, Bad> {
    Ok(Rule { clauses: m.clauses.iter().map(clause).collect::<Result<_, _>>()? })
}

fn clause(m: &pb::Clause) -> Result<Clause, Bad> {
    Ok(Clause { matches: m.matches.iter().map(one_match).collect::<Result<_, _>>()? })
}

fn one_match(m: &pb::Match) -> Result<Match, Bad> {
    Ok(Match {
        namespaces: Field {
            any_of: all(&m.namespaces, |t| text("namespaces", t))?,
            none_of: all(&m.not_namespaces, |t| text("not_namespaces", t))?,
        },
        principals: Field {
            any_of: all(&m.principals, |t| text("principals", t))?,
            none_of: all(&m.not_principals, |t| text("not_principals", t))?,
        },
        service_accounts: Field {
            any_of: all(&m.service_accounts, |a| account("service_accounts", a))?,
            none_of: all(&m.not_service_accounts, |a| account("not_service_accounts", a))?,
        },
        source_ips: Field {
            any_of: all(&m.source_ips, |a| range("source_ips", a))?,
            none_of: all(&m.not_source_ips, |a| range("not_source_ips", a))?,
        },
        destination_ips: Field {
            any_of: all(&m.destination_ips, |a| range("destination_ips", a))?,
            none_of: all(&m.not_destination_ips, |a| range("not_destination_ips", a))?,
        },
        destination_ports: Field {
            any_of: all(&m.destination_ports, |p| wire::port("destination_ports", *p))?,
            none_of: all(&m.not_destination_ports, |p| wire::port("not_destination_ports", *p))?,
        },
    })
}

fn all<M, T>(messages: &[M], one: impl Fn(&M) -> Result<T, Bad>) -> Result<Vec<T>, Bad> {
    messages.iter().map(one).collect()
}

fn text(field: &'static str, m: &pb::StringMatch) -> Result<StringMatch, Bad> {
    use pb::string_match::MatchType;
    match &m.match_type {
        Some(MatchType::Exact(value)) => Ok(StringMatch::Exact(value.as_str().into())),
        Some(MatchType::Prefix(value)) => Ok(StringMatch::Prefix(value.as_str().into())),
        Some(MatchType::Suffix(value)) => Ok(StringMatch::Suffix(value.as_str().into())),
        Some(MatchType::Presence(_)) => Ok(StringMatch::Presence),
        // Also how a kind of match that is newer than us reads.
        None => Err(Bad::new(field, Problem::Missing)),
    }
}

fn account(field: &'static str, m: &pb::ServiceAccountMatch) -> Result<ServiceAccountMatch, Bad> {
    Ok(ServiceAccountMatch {
        namespace: wire::name(field, Namespace::new(&m.namespace))?,
        service_account: wire::name(field, ServiceAccountName::new(&m.service_account))?,
    })
}

fn range(field: &'static str, m: &pb::Address) -> Result<IpNet, Bad> {
    wire::cidr(field, &m.address, m.length)
}

/// Encodes a policy.
pub fn encode_authorization(policy: &Authorization) -> Encoded {
    let message = message(policy);
    Encoded::new(ResourceType::Authorization, policy.name.to_string(), &message, FoundBy::default())
}

/// The message alone, as `decode_authorization` takes it.
pub(crate) fn authorization_body(policy: &Authorization) -> Vec<u8> {
    message(policy).encode_to_vec()
}

fn message(p: &Authorization) -> pb::Authorization {
    pb::Authorization {
        name: p.name.name().to_owned(),
        namespace: p.name.namespace().to_owned(),
        scope: match p.scope {
            Scope::Global => pb::Scope::Global,
            Scope::Namespace => pb::Scope::Namespace,
            Scope::Workload => pb::Scope::WorkloadSelector,
        }
        .into(),
        action: match p.action {
            Action::Allow => pb::Action::Allow,
            Action::Deny => pb::Action::Deny,
        }
        .into(),
        rules: p.rules.iter().map(rule_message).collect(),
        dry_run: p.dry_run,
        extensions: Vec::new(),
    }
}

fn rule_message(rule: &Rule) -> pb::Rule {
    let clause = |c: &Clause| pb::Clause { matches: c.matches.iter().map(match_message).collect() };
    pb::Rule { clauses: rule.clauses.iter().map(clause).collect() }
}

fn match_message(m: &Match) -> pb::Match {
    let texts = |values: &[StringMatch]| values.iter().map(text_message).collect();
    let accounts = |values: &[ServiceAccountMatch]| values.iter().map(account_message).collect();
    let ranges = |values: &[IpNet]| values.iter().map(range_message).collect();
    let ports = |values: &[u16]| values.iter().map(|port| (*port).into()).collect();
    pb::Match {
        namespaces: texts(&m.namespaces.any_of),
        not_namespaces: texts(&m.namespaces.none_of),
        principals: texts(&m.principals.any_of),
        not_principals: texts(&m.principals.none_of),
        source_ips: ranges(&m.source_ips.any_of),
        not_source_ips: ranges(&m.source_ips.none_of),
        destination_ips: ranges(&m.destination_ips.any_of),
        not_destination_ips: ranges(&m.destination_ips.none_of),
        destination_ports: ports(&m.destination_ports.any_of),
        not_destination_ports: ports(&m.destination_ports.none_of),
        service_accounts: accounts(&m.service_accounts.any_of),
        not_service_accounts: accounts(&m.service_accounts.none_of),
        extensions: Vec::new(),
    }
}

fn text_message(value: &StringMatch) -> pb::StringMatch {
    use pb::string_match::{MatchType, Presence};
    let match_type = match value {
        StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        StringMatch::Presence => MatchType::Presence(Presence {}),
    };
    pb::StringMatch { match_type: Some(match_type) }
}

fn account_message(value: &ServiceAccountMatch) -> pb::ServiceAccountMatch {
    pb::ServiceAccountMatch {
        namespace: value.namespace.to_string(),
        service_account: value.service_account.to_string(),
    }
}

fn range_message(range: &IpNet) -> pb::Address {
    pb::Address { address: wire::ip_bytes(range.addr()), length: range.prefix_len().into() }
}
