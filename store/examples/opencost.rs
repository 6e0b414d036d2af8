#![allow(warnings)]
use quipu_store::*; use quipu_store::cid::*; use quipu_store::sign::Signer; use std::time::*;
#[path="../tests/kit/mod.rs"] mod kit;
fn main(){ let dir=std::path::PathBuf::from(std::env::args().nth(1).unwrap()); let n:u64=std::env::args().nth(2).unwrap().parse().unwrap();
 let o=||Options::new(SignerSource::Fixed(Signer::from_secret(&[7;32])));
 if !dir.exists() { let t=Instant::now(); let s=Store::open(&dir,o()).unwrap(); for i in 0..n { s.record(Record{receipt:kit::receipt(i,&[i],&[]),blocks:kit::blocks_of(i,&[i]),done:Box::new(|r|{r.unwrap();})}).unwrap(); } println!("record {n}: {:?}",t.elapsed()); s.flush().unwrap(); println!("flushed {:?} {:?}",t.elapsed(),s.counters()); let t=Instant::now(); drop(s); println!("drop {:?}",t.elapsed()); }
 for _ in 0..5 { let t=Instant::now(); let s=Store::open(&dir,o()).unwrap(); let a=t.elapsed(); let t=Instant::now(); let f=s.find_tasks(&[kit::task(5)]).unwrap(); let b=t.elapsed();
 let t=Instant::now(); for i in 0..1000 { s.has(kit::task(i).link()).unwrap(); } let c=t.elapsed()/1000;
 let ids:Vec<_>=(0..n).map(kit::task).collect(); let t=Instant::now(); let f=s.find_tasks(&ids).unwrap(); let d=t.elapsed(); assert!(f.iter().all(|t|t.receipts.len()==1));
 let t=Instant::now(); drop(s); println!("open {a:?} find1 {b:?} has {c:?} find{n} {d:?} drop {:?}",t.elapsed()); }
 // writer latency
 let s=Store::open(&dir,o()).unwrap(); for i in 0..6 { let t=Instant::now(); kit::record(&s,kit::receipt(1_000_000+i+t.elapsed().as_nanos() as u64+std::process::id() as u64*1000,&[1],&[]),vec![]); println!("one durable receipt {:?}",t.elapsed()); }
 let b=vec![1u8;100_000]; for i in 0..3u8 { let mut b=b.clone(); b[0]=i; b[1..5].copy_from_slice(&std::process::id().to_le_bytes()); s.put(Codec::Raw,b).unwrap(); let t=Instant::now(); s.flush().unwrap(); println!("one file + flush {:?}",t.elapsed()); }
 println!("files: {:?}", std::process::Command::new("du").args(["-sh"]).arg(&dir).output().unwrap().stdout.iter().map(|c|*c as char).collect::<String>());
 let t=Instant::now(); drop(s); println!("drop {:?}",t.elapsed());
}
