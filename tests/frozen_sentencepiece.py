"""Two small models that SentencePiece 0.2.3 trained, and the ids that it gives for some texts.

BPE as Llama has it (bytes for unknown characters, nothing normalised), Unigram as T5 has it, with
a table of replacements and pieces of the user's. Files are compressed and in base 85.
"""

import base64
import zlib

TEXTS = [
    'Hello world', '', ' ', '  two  spaces ', 'the', "They didn't, 'tis 12.5!",
    'na\xefve caf\xe9', 'e\u0301e\u0301\u0323', '\ufb01 \ufb01n \uff11\uff12\uff13',
    '\u65e5\u672c\u8a9e\u3001\u3067\u3059', '\tTab\n\nline',
    '\U0001f642\U0001f469\u200d\U0001f469\u200d\U0001f467', 'a\xadb', '\u2122 \u304b\u3099',
    '<s> </s> <unk>', '<think> the', '\u2581under\u2581score', 'aaaaaaaaaaaaaaaa',
    'thethethethethethethethethe', '\x00\x01', 'Z\xfcrich \u2603\u2603 snow', 'x\u3000y',
    'AbA aba ab', 'trailing \u2581 ',
]  # fmt: skip

BPE = zlib.decompress(base64.b85decode(
    "c-mdkO=uit7{KxECJpgzT0>C?;vtBjhpIc@GqBjsClx=@3LbiBYNA<Nx1rr?3Kh~)q=<-CsYQzPprBCDqX)s=c=71L"
    "gU8Z?c++E#KF_l|7XCT?-)AT9JM)`y2i)HN`QfQ&AMVKCO4lv9x&FD?YR>I<^ZjS;FCTOZ{oZ!3HybRp1CIlrgMfpO"
    "gNTEegM@>WgN%cmgMx#SgNlQig9ZbS9v(eBdU*8k=;6`BqlZTij~*U9JbHNa@aW;u!=r~s51$@BJ$!oj^ziB7)5E8S"
    "PY<6SK0SPT`1J7U;nTyXhfj}y9sxZ9dIa<c=n>E(phrNDfF1!o0(u1W2<Q>eBcMk>kB}ZAJwkef^a$w@(j%ltNRN;n"
    "Aw5ERg!BmM5z-^1M@Wx|9uYkvdPMYy=n>H)qDMrJh#nC=B6>vhi0Bc~Bcew{kC+}YJz{#q^oZ#Z(<7!wOpllzF+E~>"
    "#Po>i5z`~4M@)}|9tk}XdL;Bn=#kJPp+`cGgdPb!5_%-`Na&H!BcVq^kCYxMJyLq4^hoKE(j%ouN{^HtDLqnpr1VJX"
    "k<ufjM@o;39vM9{dSvv-=#kMQqen)Mj2;<1GJ0h6$mo&LBcn$~kDMMkJ#u>F^vLOv(<7%xPLG@(IX!ZE<n+ktk<%lm"
    "M^2A|9tAxLdKC01=uyz4phrQEf*u7u3VIauDCkkpqo7AYkCGlGJxY3%^eE|3(xaqDNsp2qB|S=dl=LX+QPQKNM@f&0"
    "9u++*dQ|kN=uy$5qDMuKiXIg`Dtc7(sOVAAqoPMekD4AeJ!*Q?^r-1k)1#(GO^=!$H9cy2)byz7QPZQQM@^509t}Mj"
    "dNlNC=+V%lp+`fHh8_()8hSMJXz0<<qoGH0-(#PfzkB`CNS8bA0oUE!klguYHeb{ESm%SG<dN}geoilH7w^mBR=YSO"
    "i}Bd)cMH0$?RLjDShF)GnrC&oJemE+yRukq7bj)Wvx_#?^}u%imMmVe`9SwMF}>uh<d)@7uilwB=jH~(x23Pz_{@39"
    "Pp22_1KgOnCAU{^Q#ZV2Kdk8w-?az5DT^Pc2kArpG~GrI8n>4`CyU?O#ilHNZ+9K()BpMZN`Jf4UZ|)1-7fTQ|Fyf7"
    "h4j6NTXcJrrL(K0&p2<TZ(z|%_g=Ent(L6@QV&__&8}GKsgGLeU9Vc{d5>G2mU_}k-49tQQqM}CKD1Jw)ars%-%4Nf"
    "5i1q0tn`H)wK^pAg4LG3EUTxbj#<4Y^@i0cspD1(dBW<L)VkGEQkzzfNu9RJ^)*{PFEz5NrM9hJle%d2l70hLh16xM"
    "cciXZJt6g>)wX^gyZT~({a*5;Y5pMj@vgp;zrOrd`jctjyse**^*^`uU0s{@&!0(uG3#s6*Ju5?erI;hi&9@%y()Fn"
    ">ZsJ$Rxj%pxO;GUrMvn^_w{eKJ~(`}+qu!*^T+|WI9T5pjs~L(2Ro~s{{V<-#+3"
))  # fmt: skip

BPE_IDS = [
    [290, 338, 291, 301, 301, 294, 264, 283, 301, 300], [], [290, 290],
    [290, 290, 259, 307, 294, 290, 263, 311, 293, 304, 291, 297, 290], [266],
    [290, 316, 260, 306, 289, 296, 300, 295, 326, 292, 310, 290, 326, 292, 282, 290, 52, 53,
    312, 56, 36], [288, 293, 329, 313, 291, 281, 293, 305, 328],
    [290, 291, 207, 132, 291, 207, 132, 207, 166], [290, 332, 290, 332, 295, 290, 333, 334, 335],
    [290, 330, 331, 235, 173, 161, 230, 131, 132, 230, 132, 170, 230, 132, 156],
    [290, 12, 316, 293, 309, 13, 13, 301, 262, 291],
    [290, 243, 162, 156, 133, 243, 162, 148, 172, 229, 131, 144, 243, 162, 148, 172, 229, 131,
    144, 243, 162, 148, 170], [261, 197, 176, 309],
    [290, 229, 135, 165, 290, 230, 132, 142, 230, 133, 156],
    [290, 63, 297, 65, 290, 63, 50, 297, 65, 290, 63, 303, 295, 314, 65],
    [290, 63, 292, 298, 262, 314, 65, 266], [290, 290, 303, 275, 274, 263, 304, 294, 268],
    [261, 293, 293, 293, 293, 293, 293, 293, 293, 293, 293, 293, 293, 293, 293, 293],
    [266, 292, 260, 292, 260, 292, 260, 292, 260, 292, 260, 292, 260, 292, 260, 292, 260],
    [290, 3, 4],
    [290, 93, 198, 191, 299, 296, 304, 298, 290, 229, 155, 134, 229, 155, 134, 263, 295, 294,
    307], [290, 327, 230, 131, 131, 306], [290, 319, 309, 319, 261, 309, 293, 261, 309],
    [259, 299, 293, 296, 301, 276, 290, 290, 290],
]  # fmt: skip

UNIGRAM = zlib.decompress(base64.b85decode(
    "c-lqO2~<@@7zglq7ZA9j6!o3MF*UQr+y!?-E!;wKNzpP~y6`T%C-5FU9$PN4m?G|gC?cqc3yQLfxU!f_2SZXsgH%L~"
    "N=2<qiL(El$9;0nkNLitxifQT=3TL?Xy*|sX~z-6pR0}7MYQ!89A-_G=5Rw$M=pr3i1r?4o!(kwD|QwI$xlt3L>tLZ"
    "QZrGsxt$tI8+Wvy79B*5O!ppnlq->$;%X=ID2&qMr|?KmOKN<0BvH}LIXp5_ebPc61yk}7EsqS8XuFt4TDp^H;!!x+"
    "J&WYg0E#PEUXHiugqh7cnd<w*@P-h2&>qhte`=Ig@@NqK?wnALH?T!#i86L2@akwvvRlogPzvm~u3U5!1zAgLx~%7w"
    "fz<uHB{ETE`i64lHT8x-YE4YyT}?8*(Jh&G&{1O#L{6d|CNKt&^J7bW09`3cQ787I8pl+%li5f)y;FIoAeuTajYpC6"
    ";_Nm)c9@wqR9iyXL_<cW^H4HS&&lcP5PAazJkQ__MiV{JWvbgD8MJiua3*gt>!@GJ4$IRfGTQC7jA@_+W3ttS1yJZ}"
    "YZ6Je@;)^QrK<Y<>adYg80EMfP^b5ksi8QRue&$RTzSYcM=(7+c$kO5(e(OjdFn`hbh`;jSJ9rImt-cVPWhH?G}30z"
    "e09_ina-x=^HKe1@2Wye7d@HV3$0zE$v3Y^&HN==;99~T7)a?MNB9H&Ix3-3wF_>?@Cl{-{A7cfmQFg#yZcZ}_A%?B"
    "8EBaEadm-_dhFY^l;i5F2VjG3`k%7SX{3uotXYUeZkg81V5BVHN^2(3uChu#-E1nWtyBjL!<z1QtKw@ihMOtK|BU*G"
    "R;F<VYvvbC7oMKs11zSI*U#}M4E{2WdVGP`_Mysx?|C%I5@EmP2wWPTSZ32nTADGonr}^29tG82<PS`zP$g0-bI7cO"
    "&Y}alyScZXNVZg9vU^+hyo|T!T4FryNfAn9nZXC|lXcme>M(!pZ<c<uC_Sde^5Y4_Wvr@EH`!YsZKRV^YI(02l-c*P"
    "x`0TX9w)e8spvQl9d2ylfV!6#NFPQSL+jM}{IG?0C)e?jys6l`-a3*oJXlK=N=3&d))}c`o;6j*@$|K((Z+Ccm+JW@"
    ">ZAyn96L9bi!Nek<%XE_fqDZjcu~m>emas_k6YtkdgJ9_A$02m(pN=MS(M3WRyHCuvxzUvjjk_h;gJ{3ce~G{D2f-K"
    "^2nW9=L!`{^f5UewCB+@GAR+ZPC1Z<j@k&Cm}_6*GQw5UD{4-5=(6!`8ueS<rolJ5O{09969iT+2<L?t>YwJ4pt&Zn"
    "ZUqjaQ+SwcTBMZ&^afe$veSXt;yd1pF~=^9X&8$Up_&OS){(K@V;OTszGADuTu>geQ$G4ECJUuK%9tqh^AT8#7h`K;"
    "Y*@3Cz~WGshIUu9$D(vXxe28WN)$0k_}2r2bcZ*gC%k1@0(%>BFA3~jl<z<vcn|u*`_Lcy!9W-QgJBT3!4Mb<Ct3tH"
    "9OW<=2_s-MjDinf4B)kx2aJbt@DY3n6TlND!9<t>lfg^r(^td1QBH+v@CnR->F_DcgxN3)=70};26JH^d=9?w1uTI1"
    "um~1{1Yd$b_<;;s2!sI8gARgVF@z|6QUqp1X@IXF6vDs+;b4YHh=6E_f+g@ZEQ6)+4J?OP<xn9W;^13Y0jppotcC<w"
    "1BtK>*1`r@51U{kBtsHxh7{NWsgMR+Asx0s25g5NkO{kBC+vnS*aO+H5B5S1?1zJJ01hel1oGf86hJ-{K_QetF_gj)"
    "D1)PL9FD<B<(|N4I0Y3@4pmSI-@zF;2WQ~|oLAb4HLUumhFwHl4K?rs)WRjW3_n60T!DJH3fJKpG{8^rGc>|YxB*RY"
    "3!33J+=V;v3$*UkuwPNOC~aFctT{!)9w5H2w82Ao43FRscmjXHpYS(4h3D`L{((057uw+k{Kxo@&yBe=pJ}*>0eV)I"
    "!<vqjRmZaC*tP6`QvbGx"
))  # fmt: skip

UNIGRAM_IDS = [
    [6, 116, 7, 13, 13, 12, 47, 41, 13, 15], [], [], [6, 8, 36, 12, 6, 9, 24, 11, 20, 7, 9], [18],
    [92, 23, 6, 15, 10, 15, 14, 81, 8, 17, 6, 81, 8, 10, 9, 6, 112, 115, 21, 2],
    [73, 85, 119, 7, 61, 32, 87], [6, 87, 2], [46, 10, 46, 10, 14, 88], [6, 89, 90, 2],
    [6, 66, 4, 2, 13, 10, 14, 7], [6, 2], [6, 4], [6, 66, 117, 6, 2],
    [6, 2, 9, 2, 6, 2, 9, 2, 6, 2, 16, 14, 35, 2], [6, 3, 18],
    [6, 6, 16, 14, 15, 38, 6, 9, 20, 41, 7],
    [22, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 11],
    [18, 43, 7, 43, 7, 43, 7, 43, 7, 43, 7, 43, 7, 43, 7, 43, 7], [6, 2],
    [6, 2, 59, 63, 6, 2, 6, 9, 14, 12, 36], [6, 114, 6, 23], [6, 5, 6, 5, 6, 4],
    [6, 8, 27, 11, 10, 13, 28],
]  # fmt: skip
