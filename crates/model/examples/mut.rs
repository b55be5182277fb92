use holdfast_model::*;
fn main() {
    let only = std::env::args().nth(1);
    for m in Mutant::ALL {
        if only.as_ref().is_some_and(|o| *o != format!("{m:?}")) {
            continue;
        }
        let t = std::time::Instant::now();
        let o = explore(&scope_of(*m), 5_000_000);
        let e = match &o.end {
            End::Violation(v) => format!("{} in {} (fast {})", v.property, v.steps.len(), v.fast),
            e => format!("SURVIVED {e:?}"),
        };
        println!("{m:?}: {e} states {} distinct {} {:?}", o.states, o.distinct, t.elapsed());
        if only.is_some() {
            if let End::Violation(v) = o.end {
                for s in v.steps {
                    println!("  {s}");
                }
            }
        }
    }
}
