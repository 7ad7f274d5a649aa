"""SRGAN as a plain PyTorch loop, the way the 2019 report trained it: what our networks and our speed are compared with.

Nothing of sisr is used here and nothing here is meant to change. Float32 in PyTorch's default layout, batch norm and spectral
norm in both networks, a discriminator for one input size that ends in a sigmoid, VGG19 fed with images in [-1,1], Adam with
its defaults, one pass for each thing that is needed, and each loss brought back as a number at each step."""
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

def conv(ni, no, k=3, stride=1, sn=True):
    c = nn.Conv2d(ni, no, k, stride, padding=k//2)
    return spectral_norm(c) if sn else c

class Residual(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv1,self.bn1,self.act,self.conv2,self.bn2 = conv(n,n),nn.BatchNorm2d(n),nn.PReLU(),conv(n,n),nn.BatchNorm2d(n)

    def forward(self, x): return x + self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))

class Generator(nn.Module):
    "LR (N,3,h,w) -> SR (N,3,h*scale,w*scale), both in [-1,1]"
    def __init__(self, scale=4, width=64, blocks=16):
        super().__init__()
        self.first = nn.Sequential(conv(3, width, 9), nn.PReLU())
        self.blocks = nn.Sequential(*[Residual(width) for _ in range(blocks)])
        self.after = nn.Sequential(conv(width, width), nn.BatchNorm2d(width))
        ups = []
        for _ in range(scale.bit_length()-1): ups += [conv(width, 4*width), nn.PixelShuffle(2), nn.PReLU()]
        self.up = nn.Sequential(*ups)
        self.last = conv(width, 3, 9)

    def forward(self, lr):
        x = self.first(lr)
        x = x + self.after(self.blocks(x))
        return torch.tanh(self.last(self.up(x)))

class Discriminator(nn.Module):
    "Images (N,3,size,size) -> (N,1), the probability that each is real"
    def __init__(self, size=96, width=64):
        super().__init__()
        layers,ni = [conv(3, width, sn=False), nn.LeakyReLU(.2, inplace=True)],width
        for m,stride in (1,2), (2,1), (2,2), (4,1), (4,2), (8,1), (8,2):
            layers += [conv(ni, m*width, stride=stride), nn.BatchNorm2d(m*width), nn.LeakyReLU(.2, inplace=True)]
            ni = m*width
        self.features = nn.Sequential(*layers)
        side = -(-size//16)
        self.classifier = nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(ni*side**2, 16*width)), nn.LeakyReLU(.2),
                                        nn.Linear(16*width, 1), nn.Sigmoid())

    def forward(self, x): return self.classifier(self.features(x))

class VGGFeatures(nn.Module):
    "The convolutions of VGG19 up to conv4_4, from their weights and biases; the last one's output before the activation"
    def __init__(self, weights): # 12 pairs
        super().__init__()
        layers = []
        for i,(w,b) in enumerate(weights):
            if i in (2,4,8): layers.append(nn.MaxPool2d(2))
            c = nn.Conv2d(w.shape[1], w.shape[0], 3, padding=1)
            c.weight.data.copy_(w); c.bias.data.copy_(b)
            layers += [c, nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1]).eval()
        for p in self.parameters(): p.requires_grad = False

    def forward(self, x): return self.layers(x)

class PlainSRGAN:
    "The loop: `run(n)` takes n steps with the next n of `batches`, each HR uint8 (N,3,size,size) on the CPU"
    def __init__(self, batches, vgg_weights, size=96, scale=4, width=64, blocks=16, d_width=64, w_vgg=.1, w_adv=1e-3, device='cpu'):
        self.batches,self.scale,self.w_vgg,self.w_adv,self.device = batches,scale,w_vgg,w_adv,device
        self.G,self.D = Generator(scale, width, blocks).to(device),Discriminator(size, d_width).to(device)
        self.vgg = VGGFeatures(vgg_weights).to(device)
        self.opt_g,self.opt_d = torch.optim.Adam(self.G.parameters()),torch.optim.Adam(self.D.parameters())
        self.mse,self.bce = nn.MSELoss(),nn.BCELoss()

    def shrink(self, hr):
        side = hr.shape[-1]//self.scale
        return F.interpolate(hr, size=(side,side), mode='bicubic', align_corners=True).clamp(-1, 1)

    def step(self, hr):
        hr = hr.float()/127.5-1
        lr = self.shrink(hr)
        hr,lr = hr.to(self.device),lr.to(self.device)
        ones = torch.ones(len(hr), 1, device=self.device)
        sr = self.G(lr)

        self.opt_d.zero_grad()
        d_real = self.bce(self.D(hr), .9*ones)
        d_fake = self.bce(self.D(sr.detach()), 0*ones)
        d_loss = d_real + d_fake
        d_loss.backward()
        self.opt_d.step()

        self.opt_g.zero_grad()
        pixels = self.mse(sr, hr)
        with torch.no_grad(): wanted = self.vgg(hr)
        content = self.mse(self.vgg(sr), wanted)
        adversarial = self.bce(self.D(sr), ones)
        g_loss = pixels + self.w_vgg*content + self.w_adv*adversarial
        g_loss.backward()
        self.opt_g.step()
        return dict(mse=pixels.item(), vgg=content.item(), adv=adversarial.item(), d=d_loss.item())

    def run(self, n): return [self.step(next(self.batches)) for _ in range(n)]
