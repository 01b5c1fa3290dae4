package zz
import ("testing";"bytes";"math/rand";"io";"crypto/sha256"
 cdc "github.com/PlakarKorp/go-cdc-chunkers"
 "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc")
func mask(ones int) uint64 { step:=64/ones; var m uint64; for i:=0;i<ones;i++{ p:=63-i*step; if p>=0 {m|=1<<p}}; return m}
const min_, normal, max_ = 256<<10, 1<<20, 4<<20
func cut(data []byte, maskS, maskL uint64) int {
 n:=len(data); if n<=min_ {return n}; if n>max_ {n=max_}; nn:=normal; if n<nn {nn=n}
 var fp uint64
 g:=&fastcdc.G
 for i,b := range data[min_:nn] { fp=fp<<1+g[b]; if fp&maskS==0 {return min_+i} }
 for i,b := range data[nn:n] { fp=fp<<1+g[b]; if fp&maskL==0 {return nn+i} }
 return n
}
func cut2(data []byte, maskS, maskL uint64) int {
 n:=len(data); if n<=min_ {return n}; if n>max_ {n=max_}; nn:=normal; if n<nn {nn=n}
 g:=&fastcdc.G
 i,fp,ok:=scan(g,data[:nn],min_,0,maskS); if ok {return i}
 i,_,ok=scan(g,data[:n],nn,fp,maskL)
 return i
}
func scan(g *[256]uint64,data []byte,i int,fp uint64,mask uint64)(int,uint64,bool){
 for ;i+8<=len(data);i+=8 {
  d:=data[i:i+8:i+8]
  f0:=fp<<1+g[d[0]]
  f1:=f0<<1+g[d[1]]
  f2:=f1<<1+g[d[2]]
  f3:=f2<<1+g[d[3]]
  f4:=f3<<1+g[d[4]]
  f5:=f4<<1+g[d[5]]
  f6:=f5<<1+g[d[6]]
  f7:=f6<<1+g[d[7]]
  if f0&mask==0||f1&mask==0||f2&mask==0||f3&mask==0||f4&mask==0||f5&mask==0||f6&mask==0||f7&mask==0 {
   for j,f:=range [8]uint64{f0,f1,f2,f3,f4,f5,f6,f7}{ if f&mask==0 {return i+j,f,true}}
  }
  fp=f7
 }
 for ;i<len(data);i++ { fp=fp<<1+g[data[i]]; if fp&mask==0 {return i,fp,true} }
 return i,fp,false
}
func BenchmarkC(b *testing.B){
 data:=make([]byte,256<<20); rand.New(rand.NewSource(1)).Read(data)
 b.Run("sha", func(b *testing.B){ b.SetBytes(int64(len(data))); for b.Loop(){ sha256.Sum256(data)}})
 b.Run("lib", func(b *testing.B){ b.SetBytes(int64(len(data)))
 for b.Loop(){ 
  c,err:=cdc.NewChunker("fastcdc-v1.0.0",bytes.NewReader(data),&cdc.ChunkerOpts{MinSize:256<<10,NormalSize:1<<20,MaxSize:4<<20}); if err!=nil{b.Fatal(err)}
  for{ _,err:=c.Next();  if err==io.EOF{break}}
 }})
 for name,f:=range map[string]func([]byte,uint64,uint64)int{"own":cut,"own2":cut2}{
 b.Run(name, func(b *testing.B){ b.SetBytes(int64(len(data)))
 for b.Loop(){ d:=data; n:=0; for len(d)>0 { k:=f(d,mask(22),mask(18)); d=d[k:]; n++ }; if n!=219&&false {b.Fatal(n)} }})}
}
