use holdfast_model::*;
fn main() {
    let a: Vec<u64> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let v = [Volatile::Nobody, Volatile::Primary, Volatile::Everybody][a[3] as usize];
    let s = Scope {
        name: "t",
        nodes: a[0] as u8,
        members: if a[0] == 2 { 3 } else { 7 },
        all: a[0] == 2,
        epochs: a[1] as u8,
        writes: a[2] as u8,
        volatile: v,
        hints: a[4] == 1,
        leases: a[5] == 1,
        learners: false,
        witness: a[0] == 2,
        budget: Budget {
            crashes: a[6] as u8,
            wipes: a[7] as u8,
            rots: a[8] as u8,
            changes: a[9] as u8,
            releases: a[10] as u8,
            rollbacks: 0,
        },
        mutant: None,
    };
    let t = std::time::Instant::now();
    let o = explore(&s, a.get(11).copied().unwrap_or(20_000_000));
    println!("{:?} {:?} states {} distinct {} depth {}", o.end, t.elapsed(), o.states, o.distinct, o.depth);
    if let End::Violation(v) = o.end {
        for s in v.steps {
            println!("  {s}");
        }
    }
}
