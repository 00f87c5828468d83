//! Where the JSON gateway has which RPC.
//!
//! Source: the `google.api.http` options of etcd 3.5's `rpc.proto`,
//! `v3lock.proto` and `v3election.proto`. All are asked by POST.

use crate::descriptor::{RPCS, Rpc};

/// What the paths begin with. Source: etcd, which still serves the second for
/// clients of 3.3.
const PREFIXES: [&str; 2] = ["/v3/", "/v3beta/"];

/// Path after the prefix, service, method.
#[rustfmt::skip]
const ROUTES: &[(&str, &str, &str)] = &[
    ("kv/range",                         "etcdserverpb.KV",          "Range"),
    ("kv/put",                           "etcdserverpb.KV",          "Put"),
    ("kv/deleterange",                   "etcdserverpb.KV",          "DeleteRange"),
    ("kv/txn",                           "etcdserverpb.KV",          "Txn"),
    ("kv/compaction",                    "etcdserverpb.KV",          "Compact"),
    ("watch",                            "etcdserverpb.Watch",       "Watch"),
    ("lease/grant",                      "etcdserverpb.Lease",       "LeaseGrant"),
    ("lease/revoke",                     "etcdserverpb.Lease",       "LeaseRevoke"),
    ("lease/keepalive",                  "etcdserverpb.Lease",       "LeaseKeepAlive"),
    ("lease/timetolive",                 "etcdserverpb.Lease",       "LeaseTimeToLive"),
    ("lease/leases",                     "etcdserverpb.Lease",       "LeaseLeases"),
    ("kv/lease/revoke",                  "etcdserverpb.Lease",       "LeaseRevoke"),
    ("kv/lease/timetolive",              "etcdserverpb.Lease",       "LeaseTimeToLive"),
    ("kv/lease/leases",                  "etcdserverpb.Lease",       "LeaseLeases"),
    ("cluster/member/add",               "etcdserverpb.Cluster",     "MemberAdd"),
    ("cluster/member/remove",            "etcdserverpb.Cluster",     "MemberRemove"),
    ("cluster/member/update",            "etcdserverpb.Cluster",     "MemberUpdate"),
    ("cluster/member/list",              "etcdserverpb.Cluster",     "MemberList"),
    ("cluster/member/promote",           "etcdserverpb.Cluster",     "MemberPromote"),
    ("maintenance/alarm",                "etcdserverpb.Maintenance", "Alarm"),
    ("maintenance/status",               "etcdserverpb.Maintenance", "Status"),
    ("maintenance/defragment",           "etcdserverpb.Maintenance", "Defragment"),
    ("maintenance/hash",                 "etcdserverpb.Maintenance", "Hash"),
    ("maintenance/hashkv",               "etcdserverpb.Maintenance", "HashKV"),
    ("maintenance/snapshot",             "etcdserverpb.Maintenance", "Snapshot"),
    ("maintenance/transfer-leadership",  "etcdserverpb.Maintenance", "MoveLeader"),
    ("auth/enable",                      "etcdserverpb.Auth",        "AuthEnable"),
    ("auth/disable",                     "etcdserverpb.Auth",        "AuthDisable"),
    ("auth/status",                      "etcdserverpb.Auth",        "AuthStatus"),
    ("auth/authenticate",                "etcdserverpb.Auth",        "Authenticate"),
    ("auth/user/add",                    "etcdserverpb.Auth",        "UserAdd"),
    ("auth/user/get",                    "etcdserverpb.Auth",        "UserGet"),
    ("auth/user/list",                   "etcdserverpb.Auth",        "UserList"),
    ("auth/user/delete",                 "etcdserverpb.Auth",        "UserDelete"),
    ("auth/user/changepw",               "etcdserverpb.Auth",        "UserChangePassword"),
    ("auth/user/grant",                  "etcdserverpb.Auth",        "UserGrantRole"),
    ("auth/user/revoke",                 "etcdserverpb.Auth",        "UserRevokeRole"),
    ("auth/role/add",                    "etcdserverpb.Auth",        "RoleAdd"),
    ("auth/role/get",                    "etcdserverpb.Auth",        "RoleGet"),
    ("auth/role/list",                   "etcdserverpb.Auth",        "RoleList"),
    ("auth/role/delete",                 "etcdserverpb.Auth",        "RoleDelete"),
    ("auth/role/grant",                  "etcdserverpb.Auth",        "RoleGrantPermission"),
    ("auth/role/revoke",                 "etcdserverpb.Auth",        "RoleRevokePermission"),
    ("lock/lock",                        "v3lockpb.Lock",            "Lock"),
    ("lock/unlock",                      "v3lockpb.Lock",            "Unlock"),
    ("election/campaign",                "v3electionpb.Election",    "Campaign"),
    ("election/proclaim",                "v3electionpb.Election",    "Proclaim"),
    ("election/leader",                  "v3electionpb.Election",    "Leader"),
    ("election/observe",                 "v3electionpb.Election",    "Observe"),
    ("election/resign",                  "v3electionpb.Election",    "Resign"),
];

/// The RPC that a path of the gateway stands for.
pub fn find(path: &str) -> Option<&'static Rpc> {
    let rest = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix))?;
    let (_, service, method) = ROUTES.iter().find(|(path, ..)| *path == rest)?;
    RPCS.iter().find(|rpc| rpc.service == *service && rpc.method == *method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_has_a_path_and_every_path_is_one_rpc() {
        for rpc in RPCS {
            let at =
                ROUTES.iter().find(|(_, service, method)| (*service, *method) == (rpc.service, rpc.method));
            assert!(at.is_some(), "{}/{} has no path", rpc.service, rpc.method);
        }
        for (number, (path, service, method)) in ROUTES.iter().enumerate() {
            assert!(ROUTES[..number].iter().all(|(earlier, ..)| earlier != path), "{path} is there twice");
            let is_served = RPCS.iter().any(|rpc| rpc.service == *service);
            let found = find(&format!("/v3/{path}"));
            assert_eq!(found.is_some(), is_served, "{path}: {service}/{method}");
        }
    }

    #[test]
    fn paths_are_exact() {
        let name = |path| find(path).map(|rpc| rpc.method);
        assert_eq!(name("/v3/kv/range"), Some("Range"));
        assert_eq!(name("/v3beta/kv/range"), Some("Range"));
        for path in
            ["/v3alpha/kv/range", "/v3/kv/range/", "/v3/kv", "/v3/", "/v3", "v3/kv/range", "/kv/range"]
        {
            assert_eq!(name(path), None, "{path}");
        }
    }
}
